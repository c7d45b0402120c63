"""Write params.yaml anew, every key with its default and its description as a comment: ``python -m tests.pipeline.declare``."""

from typing import Any

import yaml
from pydantic import BaseModel

from headflow.models.embedded.recipe import Recipe
from headflow.params import ModelParams, Params
from tests.closure import ROOT

_FIRST = "# What headflow does, grouped by stage. Change a value and run `dvc repro`: only what depends on it runs again."
_MODELS = (
    "# The models (stage prepare_model and every stage after it): a short key names a model's stages and folders.",
    "models:",
    "  # The small LLaVA that ships with headflow; copy the entry under another key to add a model (docs/catalogue.yaml has ready ones).",
    "  tiny:",
)


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


if __name__ == "__main__":
    (ROOT / "params.yaml").write_text(params(), encoding="utf-8")
