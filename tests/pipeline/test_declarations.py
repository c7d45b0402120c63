"""dvc.yaml and params.yaml say what the code does."""

import itertools
from pathlib import Path

import pytest
import yaml

from headflow.imports import NOTEBOOKS, PACKAGES
from headflow.models.embedded.recipe import Recipe
from headflow.params import ModelParams, Params, read_params
from tests.closure import ROOT, import_closure

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_list_of_what_it_imports(name: str) -> None:
    stage = STAGES[name].get("do", STAGES[name])
    assert stage["cmd"].split()[:3] == ["python", "-m", f"stages.{name}"]
    code = [dep for dep in stage["deps"] if dep.startswith(("data/imports", "headflow", "stages")) and "." in dep]
    assert code == ([] if name == "list_imports" else [f"data/imports/{name}.json"])


def test_the_lists_are_made_from_all_that_can_be_imported() -> None:
    """What list_imports does not depend on could change unseen."""
    assert set(STAGES["list_imports"]["deps"]) == {*PACKAGES, NOTEBOOKS.as_posix()}
    for name, stage in STAGES.items():
        notebooks = {ROOT / dep for dep in stage.get("do", stage)["deps"] if dep.endswith(".ipynb")}
        assert notebooks == {path for path in import_closure(ROOT / "stages" / f"{name}.py") if path.suffix == ".ipynb"}


def test_no_output_turns_the_run_cache_off() -> None:
    """DVC takes the results of earlier params from its cache only where no entry of `outs` is kept out of it."""
    for name, stage in STAGES.items():
        assert all(isinstance(out, str) for out in stage.get("do", stage)["outs"]), f"{name}: what git keeps belongs under metrics or plots"


def test_no_stage_is_missing_from_the_pipeline() -> None:
    entered = {path.stem for path in (ROOT / "stages").glob("*.py") if "enter(main" in path.read_text()}
    assert entered == set(STAGES)


def test_params_file_holds_every_key_with_its_default() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params == Params(models={"tiny": ModelParams(recipe=Recipe())})
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert written == params.model_dump(mode="json")


def test_every_key_of_the_params_file_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.strip() and not line.lstrip().startswith(("#", "- ")):
            # After a list the comment stands beside its key: DVC would lose it from the line above when it changes a param.
            assert before.lstrip().startswith("# ") or "  # " in line, f"no comment at {line!r}"


@pytest.mark.parametrize(
    "name", ["sample_masks", "fit_attributions", "cluster_heads", "score_knockouts", "prepare_examples", "render_report", "compare_models"]
)
def test_stages_without_a_model_import_neither_torch_nor_transformers(name: str) -> None:
    for file in import_closure(ROOT / "stages" / f"{name}.py"):
        lines = [line.split()[1].split(".")[0] for line in file.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
        assert not {"torch", "transformers"} & set(lines), file


def test_no_large_files_but_the_checkpoint() -> None:
    import subprocess

    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    large = {name for name in tracked if name and Path(ROOT, name).is_file() and Path(ROOT, name).stat().st_size > 1_000_000}
    assert large <= {"headflow/models/embedded/checkpoint/model.safetensors"}


def test_no_comment_is_lost_when_dvc_changes_a_param(tmp_path: Path) -> None:
    """`dvc exp run -S` writes the file anew, and drops comment lines that follow a list."""
    from dvc.utils.hydra import apply_overrides

    def comments(text: str) -> list[str]:
        return [line.split("# ", 1)[1] for line in text.splitlines() if "# " in line]

    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    for count in (385, 386):
        apply_overrides(tmp_path / "params.yaml", [f"masks.count={count}"])
    after = (tmp_path / "params.yaml").read_text()
    assert comments(after) == comments(before)
    assert {**read_params(tmp_path / "params.yaml").masks.model_dump(), "count": 0} == {**read_params(ROOT / "params.yaml").masks.model_dump(), "count": 0}
