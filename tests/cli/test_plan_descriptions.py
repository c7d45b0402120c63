"""`headflow plan` and `status` of the stages about descriptions: what is counted, against what the real stages then ask of the store."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from headflow.cli import description_work
from headflow.cli.cost import decoding_cost
from headflow.cli.stage_work import STAGES as COUNTED
from headflow.cli.stored import StoreView
from headflow.cli.work import Listed, Outline, Work
from headflow.execution.store import ResultStore
from headflow.params import Params
from stages import (
    compress_context,
    describe_images,
    extract_features,
    knock_out_attention,
    localise_objects,
    paths,
    prepare_examples,
    prepare_model,
    share_attention,
)

STORE = Path(".headflow/results.sqlite")
PARAMS = Params.model_validate(
    {
        "examples": {"count": 3, "references": 4},
        "models": {"tiny": {"device_map": "cpu"}},
        "describing": {"pictures": 2, "max_new_tokens": 30},
        "sharing": {"shown": 1},
        "localising": {"corners": 2},
        "knockout": {"routes": ["img→both"], "width": 3, "stride": 3},
        "compressing": {"percents": [10.0], "choose_by": ["attention"], "asking": ["fresh"], "timed": 1},
    }
)
STAGES = (describe_images, share_attention, localise_objects, knock_out_attention, compress_context)
NAMES = tuple(stage.__name__.removeprefix("stages.") for stage in STAGES)


def counted(outline: Outline | None = None) -> dict[str, Work]:
    with StoreView(STORE) as view:
        listed = Listed(PARAMS, "tiny", outline, None)
        return {name: getattr(description_work, name)(listed, view) for name in NAMES}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, set[bytes]], dict[str, dict[str, Work]]]]:
    """In a finished project: units that each stage asked for, and what was counted right before it."""
    asked, units, before, get = set(), {}, {}, ResultStore.get

    def watched(self: ResultStore, wanted: Iterator[bytes]) -> dict:
        wanted = list(wanted)
        asked.update(wanted)
        return get(self, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("described"))
        patch.setattr(ResultStore, "get", watched)
        prepare_examples.main(PARAMS)
        prepare_model.main(PARAMS, "tiny")
        extract_features.main(PARAMS, "tiny")
        for stage, name in zip(STAGES, NAMES, strict=True):
            before[name] = counted()
            asked.clear()
            stage.main(PARAMS, "tiny")
            units[name] = set(asked)
        yield units, before


def test_units_are_those_that_the_stage_then_asks_for(run):
    units, before = run
    assert set(NAMES) <= set(COUNTED)
    for name in NAMES:
        work = before[name][name]
        assert 0 < len(units[name]) == work.records and work.found_records == 0 and not work.most and work.known, name
    assert before["describe_images"]["knock_out_attention"].records == len(units["knock_out_attention"])
    for name in ("share_attention", "localise_objects", "compress_context"):  # what is said is not known yet
        work = before["describe_images"][name]
        assert work.most and not work.known and work.records >= len(units[name]), name


def test_of_a_finished_run_nothing_is_left(run):
    for name, work in counted().items():
        assert work.found_records == work.records == len(run[0][name]) and not work.bounded, name
        assert work.forwards_left == work.gradients_left == work.captures_left == work.tokens_left == 0 and not +work.sizes, name


def test_before_anything_is_run_there_are_bounds(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outline = Outline(6, 8, False, ["text", *["image"] * 36, "text"], slice(1, 37), 36, 3, 4)
    for name, work in counted(outline).items():
        assert work.records >= len(run[0][name]) and work.bounded and not work.known, name


def test_tokens_are_no_fewer_than_were_said(run):
    from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT

    for name, table, folder in (
        ("describe_images", DESCRIPTIONS, paths.descriptions_dir("tiny")), ("knock_out_attention", KNOCKED_OUT, paths.knockouts_dir("tiny")),
    ):  # fmt: skip
        said, work = table.read(folder / "descriptions.parquet"), run[1][name][name]
        assert 0 < said["tokens"].list.len().sum() <= work.tokens == work.tokens_left == 30 * len(said)


def test_what_is_found_is_exact_whatever_is_missing(run):
    lost = {name: sorted(units)[0] for name, units in run[0].items()}
    with sqlite3.connect(STORE) as store:
        rows = [row for unit in lost.values() for row in store.execute("SELECT * FROM results WHERE unit = ?", (unit,))]
        store.executemany("DELETE FROM results WHERE unit = ?", [(unit,) for unit in lost.values()])
    assert len(rows) == len(NAMES)
    try:
        for name, work in counted().items():
            assert work.records - work.found_records == 1 == work.sizes.total() and work.captures_left >= 1, name
    finally:
        with sqlite3.connect(STORE) as store:
            store.executemany(f"INSERT INTO results VALUES ({','.join('?' * len(rows[0]))})", rows)
        store.close()


def test_the_cost_of_a_token_counts_products_with_the_weights(captures):
    capture, _ = captures("gqa")
    weights = sum(weight.numel() for name, weight in capture.lvlm.model.named_parameters() if "language_model" in name and "proj" in name)
    seconds, flops = decoding_cost(capture, sequences=2, most=4)
    suffix = len(capture.input_ids) - capture.image.stop
    assert seconds > 0 and 2 * weights <= flops <= 3 * 2 * (weights + capture.lvlm.model.get_output_embeddings().weight.numel()) * (suffix + 4) / 4
