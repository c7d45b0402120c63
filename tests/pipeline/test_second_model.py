"""The same model once more under another key: which stages run, and that the same params give the same artifacts to the byte."""

import re

import yaml

from tests.pipeline.conftest import Project
from tests.pipeline.test_runs import MODEL_STAGES


def test_a_second_model_runs_only_its_own_stages_and_the_same_params_give_the_same_artifacts(project: Project) -> None:
    """The first model once more under another key, with nothing to go on from; and the examples anew."""

    def stages() -> dict[str, dict]:
        return yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]

    def digests(stage: str) -> list[str]:
        return [out["md5"] for out in stages()[stage]["outs"]]

    examples = digests("prepare_examples")
    project.run("rm", "-rf", ".headflow")
    project.dvc("repro", "--force", "--no-run-cache", "--single-item", "prepare_examples")
    assert digests("prepare_examples") == examples
    project.set_params(lambda params: params["models"].update(again=params["models"]["tiny"]))
    assert project.changed_stages() == {"compare_models", *(f"{stage}@again" for stage in MODEL_STAGES)}
    ends = ("trace_text", "describe_images")
    ran = re.findall(r"Running stage '([^']+)'", project.dvc("repro", *(f"{stage}@again" for stage in ends)).stdout)
    assert {"prepare_model@again", *(f"{stage}@again" for stage in ends)} <= set(ran) and all(stage.endswith("@again") for stage in ran)
    for stage in ran:
        if stage != "prepare_model@again":  # which names the key
            assert digests(stage) == digests(stage.replace("@again", "@tiny")), stage
