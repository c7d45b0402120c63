"""`headflow plan` and the counting behind it, against what the real stages then ask of the store."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from headflow.cli import cost, main, plan
from headflow.cli.cost import count_flops
from headflow.cli.plan import disk
from headflow.cli.stage_work import list_work
from headflow.cli.stored import StoreView, bytes_per_record
from headflow.cli.work import Listed, Outline, Work
from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore
from headflow.params import Params
from headflow.progress import progress
from stages import (
    compare_baselines,
    evaluate_faithfulness,
    extract_features,
    fit_attributions,
    keep_image_tokens,
    prepare_examples,
    prepare_model,
    run_ablations,
    sample_masks,
    trace_flow,
    trace_image,
    trace_text,
)

ROOT = Path(__file__).resolve().parents[2]
STORE = Path(".headflow/results.sqlite")
CONTENT = {
    "examples": {"source": "planted", "count": 2, "references": 8},
    "models": {"small": {"id": "planted", "circuit": "chain", "device_map": "cpu"}},
    "features": {"only_correct": False},
    "masks": {"count": 70, "held_out": 20, "corners": 2},
    "faithfulness": {"points": 3, "path_points": 2},
    "baselines": {"kinds": ["mean", "swap", "closed"], "examples": 2, "masks": 16, "corners": 2, "held_out": 20},
    "text_tokens": {"count": 16, "corners": 2, "held_out": 20},
    "image_tokens": {"count": 16, "corners": 8, "held_out": 20},
    "keeping": {"percents": [10.0, 100.0], "draws": 50},
}
KEYED = (run_ablations, evaluate_faithfulness, compare_baselines, trace_text, trace_flow, trace_image, keep_image_tokens)
EXACT = {"run_ablations", "evaluate_faithfulness", "compare_baselines", "trace_text", "trace_flow", "trace_image"}


def params() -> Params:
    return Params.model_validate(CONTENT)


def counted(store: Path = STORE, outline: Outline | None = None) -> dict[str, Work]:
    with StoreView(store) as view:
        return {work.stage: work for work in list_work(Listed(params(), "small", outline, None), view)}


def name(stage: object) -> str:
    return stage.__name__.removeprefix("stages.")


class Seen:
    """What each stage did: units asked of the store, masked forwards and gradients; and what was counted before and after it."""

    def __init__(self) -> None:
        self.units: dict[str, set[bytes]] = {}
        self.before: dict[str, dict[str, Work]] = {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A project in which all stages that keep records have run, and what was seen meanwhile. Read only."""
    folder, seen, asked = tmp_path_factory.mktemp("planned"), Seen(), set()
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "params.yaml").write_text(yaml.safe_dump(CONTENT))
    get = ResultStore.get

    def watched(self: ResultStore, units: Iterator[bytes]) -> dict:
        units = list(units)
        asked.update(units)
        return get(self, units)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(ResultStore, "get", watched)
        prepare_examples.main(params())
        for stage in (prepare_model, extract_features, sample_masks, *KEYED[:1], fit_attributions, *KEYED[1:]):
            if stage in KEYED:
                seen.before[name(stage)] = counted()
            asked.clear()
            stage.main(params(), "small")
            seen.units[name(stage)] = set(asked)
    return folder, seen


@pytest.fixture
def folder(finished: tuple[Path, Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished[0], tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[cost.Cost, Outline]:
    """What a calibration says before anything is prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        patch.setattr("headflow.diagnosis._TIMED_S", 0.05)
        return cost.calibrate(params(), "small")


@pytest.fixture
def quick(calibrated: tuple[cost.Cost, Outline], monkeypatch: pytest.MonkeyPatch) -> None:
    """One calibration for all tests; of what cannot be calibrated it is still tried."""
    calibrate = cost.calibrate
    monkeypatch.setattr(plan, "calibrate", lambda params, key, device: calibrated if key == "small" else calibrate(params, key, device))


@pytest.mark.parametrize("stage", [name(stage) for stage in KEYED])
def test_units_are_those_that_the_stage_then_asks_for(finished, stage):
    work = finished[1].before[stage][stage]
    asked = len(finished[1].units[stage])
    assert asked > 0
    if stage in EXACT - {"evaluate_faithfulness"}:  # its masks hang on scores that it finds first
        assert work.records == asked and not work.most
    else:
        assert work.records >= asked and work.most


def test_before_anything_is_run_as_many_units_are_counted_as_there_will_be(finished, tmp_path, monkeypatch, calibrated):
    monkeypatch.chdir(tmp_path)
    works = counted(outline=calibrated[1])
    assert not any(work.known for work in works.values())
    for stage in EXACT - {"evaluate_faithfulness", "compare_baselines"}:
        assert works[stage].records == len(finished[1].units[stage]), stage
    # An example for which there is no picture to swap with is known only later.
    for stage in ("evaluate_faithfulness", "compare_baselines", "keep_image_tokens"):
        assert works[stage].records >= len(finished[1].units[stage]), stage


def test_of_a_finished_run_nothing_is_left(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    works = counted()
    for stage in EXACT:
        work = works[stage]
        assert work.records == work.found_records == len(finished[1].units[stage]) and not work.most, stage
        assert work.forwards_left == work.gradients_left == work.captures_left == 0 and not work.sizes, stage
    assert works["keep_image_tokens"].found_records == len(finished[1].units["keep_image_tokens"])
    assert works["extract_features"].done and works["extract_features"].captures_left == 0


@pytest.mark.parametrize("stage", sorted(EXACT - {"trace_image", "evaluate_faithfulness"}))
def test_what_is_found_is_exact_whatever_is_missing(stage, finished, folder):
    mine = sorted(finished[1].units[stage])
    with sqlite3.connect(STORE) as store:
        present = {unit for (unit,) in store.execute("SELECT unit FROM results")}
        store.executemany("DELETE FROM results WHERE unit = ?", [(unit,) for unit in mine[::3]])
        damaged = mine[1]
        store.execute("UPDATE results SET checksum = checksum + 1 WHERE unit = ?", (damaged,))
    store.close()
    before, after = counted(finished[0] / STORE)[stage], counted()[stage]
    lost = {unit for unit in (*mine[::3], damaged) if unit in present}
    assert after.records == before.records and after.found_records == before.found_records - len(lost)
    assert after.sizes.total() == len(lost) and 0 < after.examples_left <= 6
    assert after.forwards_left + after.gradients_left > 0


def test_a_run_that_was_stopped_on_its_way_is_counted_to_the_mask(folder, monkeypatch):
    STORE.unlink()
    for rest in STORE.parent.glob("results.sqlite-*"):
        rest.unlink()
    kept, put = [0], ResultStore.put

    def until(self: ResultStore, records: Iterator) -> None:
        for unit, values in list(records):
            if kept[0] == 5:
                raise KeyboardInterrupt
            put(self, [(unit, values)])
            kept[0] += 1

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "put", until)
        with pytest.raises((KeyboardInterrupt, HeadflowError)):
            run_ablations.main(params(), "small")
    work = counted()["run_ablations"]
    assert work.found_records == 5 == kept[0]
    masks, gradients = [], []
    layers_heads = 0
    with sqlite3.connect(STORE) as store:
        sizes = [len(values) // 4 for (values,) in store.execute("SELECT targets FROM results")]
    store.close()
    from headflow.models.prepared import read_prepared
    from stages import paths

    prepared = read_prepared(paths.model_dir("small"))
    layers_heads = prepared.layers * prepared.heads
    for size in sizes:
        (gradients if size == 2 * (1 + layers_heads) else masks).append(size)
    assert work.found_forwards == sum(masks) and work.found_gradients == 2 * len(gradients)
    with progress("again", 1, "runs"):
        run_ablations.main(params(), "small")
    assert counted()["run_ablations"].found_records == work.records


def test_disk_is_what_the_store_then_takes(finished, monkeypatch, tmp_path):
    """Of a thousand records of 64 masks, within a tenth."""
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        rows = ((os.urandom(16), np.zeros(64, np.float32)) for _ in range(3000))
        store.put(rows)
    work = Work("run_ablations")
    work.sizes[64] = 3000
    assert disk(work) == pytest.approx(path.stat().st_size, rel=0.1)
    assert bytes_per_record(1000) > 4000


def test_flops_of_a_linear_model_of_the_work(captures):
    """The products of the text model's weights with the tokens after the picture are in a masked forward, those with all tokens in a stock one."""
    capture, other = captures("gqa")
    model = capture.lvlm.model
    inner = sum(weight.numel() for name, weight in model.named_parameters() if "language_model" in name and "proj" in name)
    head = model.get_output_embeddings().weight.numel()
    forward, gradient, stock = count_flops(capture, other, 8)
    suffix, prompt = len(capture.input_ids) - capture.image.stop, len(capture.input_ids)
    assert forward <= 1.5 * 2 * (inner * suffix + head)
    assert forward >= 2 * inner * suffix / capture.lvlm.layers  # the last layer needs one token only
    assert stock >= 2 * inner * prompt and gradient > 1.5 * forward


def shown(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in text.splitlines() if "  " in line.strip()]
    return {row[0]: row[1:] for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))}


def test_the_command(folder, capsys, quick):
    before = contents(folder)
    assert main.main(["plan"]) == 0
    text = capsys.readouterr().out
    assert contents(folder) == before, "nothing is written"
    rows = shown(text)
    assert rows["run_ablations"][0] == rows["run_ablations"][1] and rows["extract_features"][1] == "done"
    assert text.startswith("small: planted on cpu, ") and "FLOP each)" in text and "of it left" in text
    assert "1 model: at most about " in text and " free)" in text
    STORE.unlink()
    assert main.main(["plan", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["small"]
    stage = found["stages"]["run_ablations"]
    assert stage["units_in_store"] == 0 and stage["forwards_left"] == stage["forwards"] == 2 * (70 + 20 + 2 + stage_heads(folder))
    assert stage["flops_left"] > found["cost"]["forward_flops"] * stage["forwards"] and stage["bytes_left"] > 0


def stage_heads(folder: Path) -> int:
    content = json.loads((folder / "data/models/small/model.json").read_text())
    return content["layers"] * content["heads"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "stages").unlink(), "run this from the project's folder"),
        (lambda folder: (folder / STORE).write_bytes(b"no store" * 999), "the result store cannot be read"),
        (lambda folder: (folder / "params.yaml").write_text("models: {a: {id: ./nowhere}}"), "model 'a' cannot be planned: model './nowhere' cannot be"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_told_in_one_line(break_it: Callable[[Path], object], message, folder, capsys, quick):
    break_it(folder)
    assert main.main(["plan"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_wrong_key(folder, capsys):
    assert main.main(["plan", "smal"]) == 1
    assert "did you mean 'small'?" in capsys.readouterr().err


def test_a_store_that_may_only_be_read(finished, tmp_path):
    """As one that another user runs; root may write everywhere, so a process of another user looks."""
    store = tmp_path / "results.sqlite"
    shutil.copy(finished[0] / STORE, store)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o755)
        if path.name.startswith("pytest-of-"):
            break
    store.chmod(0o444)
    tmp_path.chmod(0o555)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(OSError):
            (tmp_path / "other").touch()
        with StoreView(store) as view:
            assert len(view) > 0
    finally:
        os.seteuid(before)
        tmp_path.chmod(0o755)
