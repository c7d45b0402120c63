"""Write what dvc.yaml and params.yaml say of the code anew: ``python -m tests.pipeline.declare``.

In dvc.yaml, the modules that each stage depends on; in params.yaml, every key with its default and its description as a comment.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from headflow.models.embedded.recipe import Recipe
from headflow.params import ModelParams, Params
from tests.closure import ROOT, import_closure

_FIRST = "# What headflow does, grouped by stage. Change a value and run `dvc repro`: only what depends on it runs again."
_MODELS = (
    "# The models (stage prepare_model and every stage after it): a short key names a model's stages and folders.",
    "models:",
    "  # The small LLaVA that ships with headflow; copy the entry under another key to add a model (docs/catalogue.yaml has ready ones).",
    "  tiny:",
)


def modules(stage: str, others: list[str]) -> list[str]:
    """The project's modules that a stage imports, itself or through the notebooks among its ``others``."""
    notebooks = [ROOT / dep for dep in others if dep.endswith(".ipynb")]
    found = import_closure(ROOT / "stages" / f"{stage}.py", *notebooks)
    return sorted(file.relative_to(ROOT).as_posix() for file in found if file.suffix == ".py" and file.read_text(encoding="utf-8").strip())


def pipeline(text: str) -> str:
    """``dvc.yaml`` with the modules that each stage depends on; all else as it is."""
    lines, written, stage = text.split("\n"), [], ""
    while lines:
        line = lines.pop(0)
        written.append(line)
        if named := re.fullmatch(r"  (\w+):", line):
            stage = named[1]
        if named and named[1] in ("metrics", "plots"):
            stage = ""
        if stage and (deps := re.fullmatch(r"(\s+)deps:", line)):
            item = f"{deps[1]}  - "
            others = []
            while lines and lines[0].startswith(item):
                if not (dep := lines.pop(0)).endswith(".py"):
                    others.append(dep)
            written += others + [item + module for module in modules(stage, [dep.removeprefix(item) for dep in others])]
    return "\n".join(written)


def params() -> str:
    """``params.yaml`` with every key, its default and its description."""
    everything = Params(models={"tiny": ModelParams(recipe=Recipe())})
    lines = [_FIRST, ""]
    for name in Params.model_fields:
        group = getattr(everything, name)
        if name == "models":
            _write(lines, group["tiny"], 2, [*_MODELS])
        else:
            _write(lines, group, 1, ["# " + " ".join(type(group).__doc__.split()), f"{name}:"])
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _write(lines: list[str], group: BaseModel, depth: int, head: list[str]) -> None:
    lines += head
    pad = "  " * depth
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        # DVC loses a comment line after a list when it changes a param: there it stands beside its key.
        beside = lines[-1].lstrip().startswith("- ")
        comment = f"  # {field.description}" if beside else ""
        if not beside:
            lines.append(f"{pad}# {field.description}")
        if isinstance(value, BaseModel):
            _write(lines, value, depth + 1, [f"{pad}{name}:{comment}"])
        elif isinstance(value, list | tuple) and value:
            lines.append(f"{pad}{name}:{comment}")
            lines += [f"{pad}- {_scalar(item)}" for item in value]
        else:
            lines.append(f"{pad}{name}: {'[]' if isinstance(value, list | tuple) else _scalar(value)}{comment}")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = yaml.safe_load(value) == value and not any(mark in value for mark in (": ", "?", " #")) and value[:1] not in ("'", '"')
        return value if plain else f'"{value}"'
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def main() -> None:
    for path, text in ((ROOT / "dvc.yaml", pipeline((ROOT / "dvc.yaml").read_text(encoding="utf-8"))), (ROOT / "params.yaml", params())):
        Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
