"""A model that changes at its source: its examples get other records, and the old ones are found again when it is back."""

import polars as pl
import pytest

from headflow.files import read_json, write_json
from headflow.params import Params
from stages import extract_features, paths, prepare_examples, prepare_model, run_ablations, sample_masks
from stages.subjects import Subjects

KEY = "tiny"


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Params.model_validate(
        {
            "examples": {"count": 2, "references": 2},
            "models": {KEY: {"id": "embedded", "device_map": "cpu"}},
            "masks": {"count": 8, "held_out": 20, "corners": 0},
            "features": {"only_correct": False},
            "execution": {"workers": 1, "threads": 1},
        }
    )


def test_another_revision_never_meets_records_of_the_one_before(params):
    prepare_examples.main(params)
    for stage in (prepare_model, extract_features, sample_masks, run_ablations):
        stage.main(params, KEY)
    before, description = pl.read_parquet(paths.targets(KEY)), read_json(paths.model_dir(KEY) / "model.json")
    contexts = [subject.context for subject in Subjects(params, KEY)]
    write_json(paths.model_dir(KEY) / "model.json", description | {"fingerprint": "0" * 64})  # as prepare_model writes for another commit
    assert not {subject.context for subject in Subjects(params, KEY)} & set(contexts)
    write_json(paths.model_dir(KEY) / "model.json", description)
    assert [subject.context for subject in Subjects(params, KEY)] == contexts
    paths.targets(KEY).unlink()
    run_ablations.main(params, KEY)
    assert pl.read_parquet(paths.targets(KEY)).equals(before)
