"""read_heads behind the real stages that come before it, on a small random model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from headflow.errors import HeadflowError
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.clusters import CLUSTER_EXAMPLES, HEAD_CLUSTERS
from headflow.tables.examples import EXAMPLES, FEATURES
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS, HEAD_WORDS, HEAD_WRITING
from tests.checkpoints import QUESTION
from tests.stages.test_evaluate_faithfulness import run, write_examples

LAYERS, HEADS, EXPLAINED, TOP, WORDS = 3, 4, 6, 3, 4
ANSWERS = ("cat tree", "dog", "house", "red", "dog", "dog")
DATA = Path("data/heads/tiny")
STAGES = ("prepare_model", "extract_features", "sample_masks", "run_ablations", "fit_attributions", "cluster_heads", "read_heads")
READING = {"heads": TOP, "examples": 2, "typical": 1, "token_corners": 4, "head_corners": 4, "words": WORDS, "draws": 50}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[..., Path]) -> Path:
    """A project folder in which all stages have run. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("reading") / "project"
    folder.mkdir()
    params = {
        "models": {"tiny": {"id": str(checkpoints("mha")), "device_map": "cpu"}},
        "features": {"only_correct": False},
        "masks": {"count": 24, "corners": 2, "held_out": 20},
        "clusters": {"permutations": 19, "draws": 50},
        "reading": READING,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    write_examples(folder, ANSWERS)
    done = run(folder, *STAGES)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


def read(folder: Path) -> dict[str, pl.DataFrame]:
    tables = {"head_maps": HEAD_MAPS, "cluster_maps": CLUSTER_MAPS, "head_words": HEAD_WORDS, "head_writing": HEAD_WRITING}
    return {name: table.read(folder / DATA / f"{name}.parquet") for name, table in tables.items()}


def figures(folder: Path) -> dict:
    return json.loads((folder / "reports/metrics/read_heads_tiny.json").read_text())


def test_tables_hold_the_heads_and_examples_that_were_asked_for(finished: Path) -> None:
    tables, found = read(finished), figures(finished)
    attributions = ATTRIBUTIONS.read(finished / "data/attributions/tiny/attributions.parquet")
    means = attributions.group_by("layer", "head").agg(pl.col("attribution").mean()).sort("attribution", descending=True)
    assert found["heads"] == [list(row) for row in means.select("layer", "head").head(TOP).rows()]
    maps = tables["head_maps"]
    assert [list(row) for row in maps.select("layer", "head").unique(maintain_order=True).rows()] == found["heads"]
    typical = CLUSTER_EXAMPLES.read(finished / "data/clusters/tiny/cluster_examples.parquet").filter(pl.col("rank") == 1)
    assert set(maps["id"]) == {"explain-0", "explain-1", *typical["id"]} and found["examples_with_maps"] == maps["id"].n_unique()
    assert tables["cluster_maps"].select("cluster", "id").unique(maintain_order=True).rows() == typical.select("cluster", "id").rows()
    assert maps["left"].null_count() == 0 and (maps["right"] > maps["left"]).all()
    assert tables["head_writing"].height == LAYERS * HEADS and tables["head_writing"]["lead"].drop_nulls().len() == TOP
    words = tables["head_words"]
    assert words.filter(pl.col("id").is_not_null()).height == EXPLAINED * TOP * WORDS
    assert words.filter(pl.col("id").is_null())["answer"].unique().sort().to_list() == sorted(set(ANSWERS))
    assert words.filter(pl.col("id").is_null(), answer="dog")["examples"].unique().to_list() == [3]
    assert found["words_unreadable"] is None and found["places_unknown"] is None


def test_tables_agree_with_the_library_called_by_hand(finished: Path) -> None:
    from headflow.models.baselines import Baseline
    from headflow.models.loading import load_prepared
    from headflow.targets import Target
    from headflow.tracing.head_maps import attention_maps, attribution_maps
    from headflow.tracing.written import written_logits

    tables, found = read(finished), figures(finished)
    model = load_prepared(finished / "data/models/tiny", "cpu")
    baseline = Baseline.load(finished / "data/features/tiny/baseline.safetensors", model.device, model.dtype)
    row = FEATURES.read(finished / "data/features/tiny/features.parquet").row(by_predicate=pl.col("id") == "explain-1", named=True)
    image = EXAMPLES.read(finished / "data/examples.parquet").row(by_predicate=pl.col("id") == "explain-1", named=True)["image"]
    capture, token = model.capture(image, QUESTION), row["answer_tokens"][0]
    heads = [tuple(head) for head in found["heads"]]

    final, text = attention_maps(capture)
    attribution = attribution_maps(capture, corners=4, seed=0, baseline=baseline, target=Target("logit", token))
    for layer, head in heads:
        mine = tables["head_maps"].filter(id="explain-1", layer=layer, head=head).sort("token")
        for name, expected in (("attention", final), ("attention_text", text), ("attribution", attribution)):
            np.testing.assert_allclose(mine[name], expected[layer, head], atol=1e-5)
    members: dict[int, list] = {}
    for layer, head, cluster in HEAD_CLUSTERS.read(finished / "data/clusters/tiny/head_clusters.parquet").select("layer", "head", "cluster").iter_rows():
        members.setdefault(cluster, []).append((layer, head))
    for (cluster,), part in tables["cluster_maps"].filter(id="explain-1").group_by("cluster"):
        for name, expected in (("attention", final), ("attribution", attribution)):
            np.testing.assert_allclose(part.sort("token")[name], np.mean([expected[head] for head in members[cluster]], 0), atol=1e-5)

    written = written_logits(capture, heads, baseline=baseline)[:, 0].numpy()
    written = written - written.mean(1, keepdims=True)
    for (layer, head), values in zip(heads, written, strict=True):
        mine = tables["head_words"].filter(id="explain-1", layer=layer, head=head)
        assert mine["token"].to_list() == np.argsort(-values)[:WORDS].tolist()
        np.testing.assert_allclose(mine["contribution"], np.sort(values)[::-1][:WORDS], atol=1e-5)
        assert mine["answers"].to_list() == [word == token for word in mine["token"]]


def test_finished_maps_are_not_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.read_heads as stage

    before = read(folder)
    shutil.rmtree(folder / DATA)

    def fail(*_: object, **__: object) -> None:
        raise HeadflowError("computed again")

    monkeypatch.setattr(stage, "attribution_maps", fail)
    done = run(folder, "read_heads")
    assert done.returncode == 0, done.stderr
    assert all(before[name].equals(table) for name, table in read(folder).items())
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["reading"]["token_corners"] = 6
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    assert "computed again" in run(folder, "read_heads").stderr


def test_a_model_that_cannot_be_read_has_maps_and_no_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.read_heads as stage

    def refuse(capture: object) -> None:
        raise HeadflowError("Odd: its logits are not its unembedding of the last norm")

    before = read(folder)
    monkeypatch.setattr(stage, "find_paths", refuse)
    done = run(folder, "read_heads")
    assert done.returncode == 0 and "note: Odd: its logits are not its unembedding of the last norm; the tables of words are left empty" in done.stderr
    tables = read(folder)
    assert tables["head_maps"].equals(before["head_maps"]) and tables["head_words"].is_empty()
    writing = tables["head_writing"]
    assert writing["direct"].is_null().all() and writing["lead"].is_null().all()
    assert writing["attribution"].to_list() == before["head_writing"]["attribution"].to_list()
    found = figures(folder)
    assert found["words_unreadable"].startswith("Odd") and found["direct_share_of_top_heads"] is None


def test_tables_of_other_examples_are_refused(folder: Path) -> None:
    path = folder / "data/attributions/tiny/attributions.parquet"
    ATTRIBUTIONS.write(ATTRIBUTIONS.read(path).filter(pl.col("id") != "explain-3"), path)
    done = run(folder, "read_heads")
    assert done.returncode == 1 and "attributions of other examples than the features of 'tiny'" in done.stderr
