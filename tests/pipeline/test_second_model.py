"""The same model once more under another key: which stages run, and that the same params give the same artifacts to the byte."""

import re
from pathlib import Path

import yaml

from tests.pipeline.conftest import Project
from tests.pipeline.test_runs import MODEL_STAGES

COMPARED = ("extract_features", "sample_masks", "run_ablations", "fit_attributions", "cluster_heads", "trace_text", "trace_flow", "describe_images")


def test_a_second_model_runs_only_its_own_stages_and_the_same_params_give_the_same_artifacts(project: Project) -> None:
    """The first model once more under another key, with nothing to go on from; and the examples anew."""
    examples = (project.folder / "data/examples.parquet").read_bytes()
    project.run("rm", "-rf", ".headflow", "data/examples.parquet")
    project.stages("prepare_examples", key=None)
    assert (project.folder / "data/examples.parquet").read_bytes() == examples

    project.set_params(lambda params: params["models"].update(again=params["models"]["tiny"]))
    assert project.changed_stages() == {"compare_models", *(f"{stage}@again" for stage in MODEL_STAGES)}
    ran = re.findall(r"Running stage '([^']+)'", project.dvc("repro", "sample_masks@again").stdout)
    assert "prepare_model@again" in ran and ran[-1] == "sample_masks@again" and all(stage.endswith("@again") for stage in ran)
    project.stages(*(stage for stage in COMPARED if f"{stage}@again" not in ran), key="again")
    for stage in COMPARED:
        first, second = (content(project.folder, stage, key) for key in ("tiny", "again"))
        assert first == second and first, stage


def content(folder: Path, stage: str, key: str) -> dict[str, bytes]:
    """The files that a stage has written for a model."""
    outs = [folder / out.replace("${key}", key) for out in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"][stage]["do"]["outs"]]
    files = {out: [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file()) for out in outs}
    return {f"{number} {path.relative_to(out)}": path.read_bytes() for number, (out, inside) in enumerate(files.items()) for path in inside}
