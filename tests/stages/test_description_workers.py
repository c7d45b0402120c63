"""The stages about descriptions give the same bytes in this process and in two worker processes, whose driver loads no model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headflow.execution.executors import Job, Result, Unit, workers
from headflow.execution.executors.jobs import Count, Records, Work
from headflow.execution.store import ResultStore
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from stages import (
    compress_context,
    describe_images,
    extract_features,
    knock_out_attention,
    localise_objects,
    pictures,
    prepare_examples,
    prepare_model,
    share_attention,
)

STAGES = (describe_images, share_attention, localise_objects, knock_out_attention, compress_context)
SAID = Path("data/descriptions/tiny/descriptions.parquet")


def settings(store: str, number: int) -> Params:
    content = {
        "examples": {"count": 4, "references": 2, "questions": ["object"]},
        "models": {"tiny": {"device_map": "cpu"}},
        "features": {"baseline": "blank"},
        "ablation": {"store": store},
        "execution": {"workers": number, "threads": 1},
        "sharing": {"shown": 2},
        "localising": {"corners": 2},
        "knockout": {"routes": ["img→gen"], "stride": 3, "width": 3},
        "compressing": {"percents": [10.0], "choose_by": ["attention", "random"], "asking": ["fresh"], "max_new_tokens": 2, "timed": 0},
    }
    return Params.model_validate(content)


class AnyStage:
    """What workers do that serve all the stages: each starts one process, imports and all."""

    def __init__(self, params: str, key: str) -> None:
        self.arguments = {"params": params, "key": key}
        self.opened: dict[str, Work] = {}

    def __call__(self, unit: Any, store: Records, count: Count) -> Result:
        function, own = unit
        if function not in self.opened:
            self.opened[function] = Job(function, self.arguments).open()
        return self.opened[function](own, store, count)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder in which the stages before have run."""
    monkeypatch.chdir(tmp_path)
    # Several units of few pictures.
    monkeypatch.setattr(describe_images, "_PICTURES_AT_ONCE", 2)
    monkeypatch.setattr(knock_out_attention, "_AT_ONCE", 20)
    prepare_examples.main(settings("one/results.sqlite", 1))
    prepare_model.main(settings("one/results.sqlite", 1), "tiny")
    extract_features.main(settings("one/results.sqlite", 1), "tiny")
    return tmp_path


def written(folder: Path) -> dict[str, bytes]:
    """Tables, metrics and plots of the stages."""
    files = [*folder.glob("data/*/tiny/*.parquet"), *folder.glob("reports/**/*.json"), *folder.glob("reports/**/*.csv")]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_the_same_bytes_in_two_worker_processes(folder, monkeypatch):
    for stage in STAGES:
        stage.main(settings("one/results.sqlite", 1), "tiny")
    before = written(folder)
    assert len(before) > 20
    for name in before:
        if "features" not in name and "prepare" not in name:
            (folder / name).unlink()

    two, told, done = settings("two/results.sqlite", 2), [], []
    job = Job("tests.stages.test_description_workers:AnyStage", {"params": two.model_dump_json(), "key": "tiny"})
    monkeypatch.setattr(pictures, "load_prepared", lambda *arguments: pytest.fail("the driver loads the model"))
    with ResultStore(folder / "two/results.sqlite") as store, workers(job, store, two.execution, lambda computed, found: done.append((computed, found))) as run:

        @contextmanager
        def at_work(function: str, params: Params, key: str, title: str, total: int, unit: str) -> Iterator[Callable[[Sequence[Unit]], Iterator[Result]]]:
            del done[:]
            yield lambda units: run([[function, one] for one in units])
            told.append((title, sum(map(sum, done)) == total > 0))

        for stage in STAGES:
            monkeypatch.setattr(stage, "at_work", at_work)
            stage.main(two, "tiny")
    assert told == [
        (title, True) for title in ("describe images", "share attention", "localise objects", "knock out attention", "compress context")
    ]  # fmt: skip
    after = written(folder)
    assert [name for name in before if before[name] != after.get(name)] == [] and after.keys() == before.keys()


def test_how_pictures_are_cut_into_units_changes_no_description(folder, monkeypatch):
    found = []
    for number in (3, 1):
        monkeypatch.setattr(describe_images, "_PICTURES_AT_ONCE", number)
        describe_images.main(settings(f"{number}/results.sqlite", 1), "tiny")
        found.append(DESCRIPTIONS.read(SAID))
    assert found[0].equals(found[1]) and len(found[0]) == 4


@pytest.mark.parametrize(("number", "most", "lengths"), [(0, 8, []), (4, 8, [4]), (9, 8, [4, 5]), (48, 8, [8] * 6), (5, 1, [1] * 5), (7, 3, [2, 2, 3])])
def test_runs_of_pictures_are_even_and_take_each_once(number, most, lengths):
    units = pictures.runs_of(number, most)
    assert [unit["stop"] - unit["start"] for unit in units] == lengths
    assert [place for unit in units for place in range(unit["start"], unit["stop"])] == list(range(number))
