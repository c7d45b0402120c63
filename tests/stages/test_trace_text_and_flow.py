"""The stages that trace tokens and routes: on planted circuits they find exactly what was planted, and a stopped run goes on."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

from headflow.attribution.regression import Attribution
from headflow.attribution.results import attributions_table
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.models.planted.circuits import CIRCUITS
from headflow.params import Params
from headflow.reporting.sentences import flow as flow_sentences
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.examples import EXAMPLES, FEATURES
from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tables.text_tokens import TEXT_CONTRASTS, TEXT_FITS, TEXT_ROLES, TEXT_SLOTS, TEXT_TOKENS
from stages import extract_features, prepare_examples, prepare_model, trace_flow, trace_text
from stages.door import enter
from tests.families import FAMILIES, QUESTION

COUNT = 4
SETTINGS = {
    "examples": {"source": "planted", "count": COUNT, "references": 8},
    "text_tokens": {"count": 40, "corners": 4, "held_out": 20},
    "flow": {"draws": 199},
}  # fmt: skip


def params(circuit: str, **changed: dict) -> Params:
    return Params.model_validate({**SETTINGS, "models": {circuit: {"id": "planted", "circuit": circuit, "device_map": "cpu"}}, **changed})


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def known_attributions(circuit: str, folder: Path) -> None:
    """The circuit's exact values, as fit_attributions would write them."""
    ids = FEATURES.read(folder / f"data/features/{circuit}/features.parquet")["id"].to_list()
    truth = np.stack([CIRCUITS[circuit].banzhaf("stone")] * len(ids))
    none = np.zeros(len(ids))
    fitted = Attribution("known", truth, np.zeros_like(truth), none, none, none)
    ATTRIBUTIONS.write(attributions_table(ids, fitted, truth), folder / f"data/attributions/{circuit}/attributions.parquet")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run on a circuit, traced."""
    done: dict[str, Path] = {}

    def folder(circuit: str) -> Path:
        if circuit not in done:
            done[circuit] = tmp_path_factory.mktemp(circuit)
            with inside(done[circuit]):
                prepare_examples.main(params(circuit))
                prepare_model.main(params(circuit), circuit)
                extract_features.main(params(circuit), circuit)
                known_attributions(circuit, Path.cwd())
                trace_text.main(params(circuit), circuit)
                trace_flow.main(params(circuit), circuit)
        return done[circuit]

    return folder


def table(folder: Path, circuit: str, kind, name: str) -> pl.DataFrame:
    stage = "flow" if name.startswith("flow") else "text_tokens"
    return kind.read(folder / f"data/{stage}/{circuit}/{name}.parquet")


RECEIVERS = {"chain": {"ASSISTANT": 7.0}, "additive": {":": 8.0}, "decoy": {":": 8.0}}
"""Which tokens receive the picture, and what of it: of the chain's hops the first ends at the role token."""


@pytest.mark.parametrize("circuit", RECEIVERS)
def test_the_text_trace_names_exactly_the_planted_tokens(traced: Callable[[str], Path], circuit: str) -> None:
    folder = traced(circuit)
    tokens, slots = table(folder, circuit, TEXT_TOKENS, "text_tokens"), table(folder, circuit, TEXT_SLOTS, "text_slots")
    assert tokens["id"].n_unique() == COUNT and set(tokens["heads"]) == {"all", "top"}
    for rows, value in ((tokens, "attribution"), (slots, "mean")):
        for heads, effect in (("all", CIRCUITS[circuit].total()), ("top", top_effect(circuit))):
            mine = rows.filter(heads=heads)
            expected = [effect if text in RECEIVERS[circuit] else 0.0 for text in mine["text"]]
            np.testing.assert_allclose(mine[value], expected, atol=2e-4)
    # Named are the planted ones and none besides.
    told = slots.filter(pl.col("p_holm") < 0.05)
    assert set(told["text"]) == set(RECEIVERS[circuit]) and len(told) == 2
    fits = table(folder, circuit, TEXT_FITS, "text_fits")
    np.testing.assert_allclose(fits.filter(heads="all")["intact"] - fits.filter(heads="all")["ablated"], CIRCUITS[circuit].total(), atol=2e-4)
    assert (fits["held_out_r"] > 0.999).all()


def top_effect(circuit: str) -> float:
    """What the heads that hold 80 % bring: of 5 + 2 both, of 3 + 2 + 1.5 + 1 + 0.5 the first three, of 3 + 3 + 2 all."""
    return {"chain": 7.0, "additive": 6.5, "decoy": 8.0}[circuit]


def test_roles_hold_what_their_tokens_do(traced: Callable[[str], Path]) -> None:
    roles = table(traced("chain"), "chain", TEXT_ROLES, "text_roles").filter(heads="all")
    shares = dict(roles.select("role", "share").rows())
    assert shares == pytest.approx({"question": 0, "role": 1, "final": 0, "before": 0, "after": 1, "all": 1}, abs=1e-4)
    assert roles.filter(role="role")["tokens"][0] == 1 and roles["window"].null_count() == len(roles) and roles["pictures"].unique().to_list() == [COUNT]
    contrasts = table(traced("chain"), "chain", TEXT_CONTRASTS, "text_contrasts")
    assert dict(contrasts.select("contrast", "value").rows()) == pytest.approx({"after - before": 1, "top - all": 0, "similarity": 1}, abs=1e-4)
    metrics = read_json(traced("chain") / "reports/metrics/trace_text_chain.json")
    assert metrics["top_heads"] == 2 and metrics["examples"] == COUNT and metrics["roles"]["all"]["role"]["share"] == pytest.approx(1, abs=1e-4)
    plot = pl.read_csv(traced("chain") / "reports/plots/text_roles/chain.csv")
    assert plot.columns == ["role", "all", "top"] and plot["role"].to_list() == ["question", "role", "final"]


def test_the_flow_finds_the_layers_of_both_hops(traced: Callable[[str], Path]) -> None:
    """Picture to role token in layer 1, role token to final token in layer 3; nothing goes by the question."""
    folder, circuit = traced("chain"), CIRCUITS["chain"]
    assert circuit.routes == ((1, "image", "role"), (3, "role", "final"))
    depths = {row["route"]: row for row in table(folder, "chain", FLOW_DEPTHS, "flow_depths").iter_rows(named=True)}
    assert depths["image→role"]["depth"] == pytest.approx(1) and depths["role→final"]["depth"] == pytest.approx(3)
    for route, layer in (("image→role", 1), ("role→final", 3)):
        assert depths[route]["effect"] == pytest.approx(circuit.total(), abs=1e-3) and depths[route]["share"] == pytest.approx(1, abs=1e-4)
        bands = table(folder, "chain", FLOW_BANDS, "flow_bands").filter(route=route, closed="window")
        through = bands.filter(pl.col("first_layer") <= layer, pl.col("last_layer") >= layer)
        np.testing.assert_allclose(through["mean"], circuit.total(), atol=1e-3)
        np.testing.assert_allclose(bands.join(through, on="at", how="anti")["mean"], 0, atol=1e-3)
        assert (depths[route]["first"], depths[route]["last"]) == (layer - 0.5, layer + 0.5)
    for route in ("question→role", "image→question"):
        assert abs(depths[route]["effect"]) < 1e-3 and depths[route]["depth"] is None and depths[route]["first"] is None
    gap = table(folder, "chain", FLOW_CONTRASTS, "flow_contrasts").filter(measure="depth", route="role→final", other="image→role").row(0, named=True)
    assert gap["difference"] == pytest.approx(2) and gap["p"] < 0.02
    effects = table(folder, "chain", FLOW_EFFECTS, "flow_effects")
    assert effects.group_by("id").len()["len"].unique().to_list() == [4 * 11 + 2]
    metrics = read_json(folder / "reports/metrics/trace_flow_chain.json")
    assert metrics["left_out"] == [] and metrics["width"] == 2 and metrics["largest_gap_intact_to_stock"] < 1e-3
    assert metrics["depths"]["role→final"]["depth"] == pytest.approx(3)
    assert pl.read_csv(folder / "reports/plots/flow/chain.csv").columns == ["layer", "question→role", "role→final", "image→question", "image→role"]


def test_readers_of_several_layers_are_all_found(traced: Callable[[str], Path]) -> None:
    """Five heads in layers 1 to 4 add 3, 3.5, 1 and 0.5: their mean layer, and each layer's part."""
    depths = {row["route"]: row for row in table(traced("additive"), "additive", FLOW_DEPTHS, "flow_depths").iter_rows(named=True)}
    assert depths["image→role"]["depth"] == pytest.approx((3 * 1 + 3.5 * 2 + 1 * 3 + 0.5 * 4) / 8, abs=1e-3)
    assert (depths["image→role"]["first"], depths["image→role"]["last"]) == (0.5, 3.5) and depths["role→final"]["depth"] is None


def test_windows_of_layers_say_where_a_token_receives_the_picture(traced: Callable[[str], Path], tmp_path: Path) -> None:
    settings = params("chain", text_tokens={"windows": 5, "count": 64, "corners": 8, "held_out": 20}, ablation={"store": str(tmp_path / "own.sqlite")})
    with inside(traced("chain")):
        trace_text.main(settings, "chain")
        tokens, slots = table(Path(), "chain", TEXT_TOKENS, "text_tokens"), table(Path(), "chain", TEXT_SLOTS, "text_slots")
        roles = table(Path(), "chain", TEXT_ROLES, "text_roles")
        trace_text.main(params("chain"), "chain")  # as the other tests want it
    where = tokens.filter(heads="all", window=1)
    assert where["first_layer"].unique().to_list() == where["last_layer"].unique().to_list() == [1]
    expected = [7.0 if (text, window) == ("ASSISTANT", 1) else 0.0 for text, window in tokens.filter(heads="all").select("text", "window").rows()]
    np.testing.assert_allclose(tokens.filter(heads="all")["attribution"], expected, atol=5e-3)
    assert slots["window"].unique().sort().to_list() == [None, 0, 1, 2, 3, 4]
    role = dict(roles.filter(heads="all", role="role").select("window", "share").rows())
    assert role == pytest.approx({0: 0, 1: 1, 2: 0, 3: 0, 4: 0, None: 1}, abs=1e-3)


def test_a_second_run_takes_everything_from_the_store(traced: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from headflow.models.lvlm import LVLM

    folder = traced("chain")
    before = {path: path.read_bytes() for path in sorted(folder.glob("data/text_tokens/chain/*")) + sorted(folder.glob("data/flow/chain/*"))}
    assert len(before) == 9
    # Nothing may be captured or run.
    monkeypatch.setattr(LVLM, "capture", lambda *args, **options: pytest.fail("captured again"))
    with inside(folder):
        trace_text.main(params("chain"), "chain")
        trace_flow.main(params("chain"), "chain")
    assert {path: path.read_bytes() for path in before} == before


def test_other_reads_and_widths_and_other_heads_change_what_they_should(traced: Callable[[str], Path]) -> None:
    with inside(traced("chain")):
        trace_flow.main(params("chain", flow={"reads": "nothing", "width": 5, "stride": 2, "draws": 99}), "chain")
        bands = table(Path(), "chain", FLOW_BANDS, "flow_bands")
        trace_text.main(params("chain", text_tokens={**SETTINGS["text_tokens"], "top_heads": 1}), "chain")
        tokens = table(Path(), "chain", TEXT_TOKENS, "text_tokens")
        trace_flow.main(params("chain"), "chain")
        trace_text.main(params("chain"), "chain")
    assert bands.filter(closed="window", route="role→final").select("first_layer", "last_layer").rows() == [(0, 4)]
    assert bands.filter(closed="from", route="role→final")["first_layer"].to_list() == [0, 2, 4]
    top = tokens.filter(heads="top", text="ASSISTANT")["attribution"]
    np.testing.assert_allclose(top, CIRCUITS["chain"].banzhaf()[1, 0], atol=2e-4)


@pytest.fixture
def other_family(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Params]:
    """A random model of another family and four pictures; what is explained is a whole answer of several tokens."""
    family = FAMILIES[request.param]
    checkpoint, (width, height) = family.build(tmp_path / "checkpoint"), family.size
    rows = []
    for split, count in (("explain", 3), ("reference", 2)):
        for scene in range(count):
            buffer = io.BytesIO()
            pixels = np.random.default_rng([len(split), scene]).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append({"id": f"{split}-{scene}", "split": split, "scene": scene, "image": buffer.getvalue(), "question_kind": "asked",
                         "question": QUESTION, "answer": ("a red house", "a dog", "a tree")[scene]})  # fmt: skip
    frame = pl.DataFrame(rows)
    typed = [(pl.col(name) if name in frame.columns else pl.lit(None)).cast(column.dtype).alias(name) for name, column in EXAMPLES.columns.items()]
    EXAMPLES.write(frame.with_columns(typed).select(list(EXAMPLES.columns)), tmp_path / "data/examples.parquet")
    settings = Params.model_validate({
        **SETTINGS, "models": {"other": {"id": str(checkpoint), "device_map": "cpu"}},
        "features": {"only_correct": False, "target": "answer_logprob"}, "examples": {},
    })  # fmt: skip
    with inside(tmp_path):
        prepare_model.main(settings, "other")
        extract_features.main(settings, "other")
        ids = FEATURES.read(Path("data/features/other/features.parquet"))["id"].to_list()
        shape = (len(ids), *(read_json(Path("data/models/other/model.json"))[name] for name in ("layers", "heads")))
        values, none = np.random.default_rng(0).normal(size=shape), np.zeros(len(ids))
        fitted = Attribution("known", values, np.zeros(shape), none, none, none)
        ATTRIBUTIONS.write(attributions_table(ids, fitted, values), Path("data/attributions/other/attributions.parquet"))
        trace_text.main(settings, "other")
        trace_flow.main(settings, "other")
    return tmp_path, settings


@pytest.mark.parametrize("other_family", ["mllama"], indirect=True)
def test_a_model_of_cross_attention_leaves_out_what_it_cannot_close(other_family: tuple[Path, Params]) -> None:
    folder, _ = other_family
    metrics = read_json(folder / "reports/metrics/trace_flow_other.json")
    assert metrics["left_out"] == ["question→role", "role→final"] and metrics["layers"] == 2
    bands = table(folder, "other", FLOW_BANDS, "flow_bands")
    assert set(bands["route"]) == {"image→question", "image→role", "picture", "all"}
    assert bands.filter(closed="window", route="image→role")["at"].to_list() == [1, 3]  # the decoder layers that read the picture
    tokens = table(folder, "other", TEXT_TOKENS, "text_tokens")
    features = FEATURES.read(folder / "data/features/other/features.parquet")
    counts = dict(tokens.filter(heads="all").group_by("id").len().rows())
    assert counts == {row["id"]: len(row["tokens"]) for row in features.iter_rows(named=True)}  # every token may read it
    assert set(tokens["role"]) >= {"system", "question", "final", "answer"} and tokens["first_layer"].unique().to_list() == [1]
    assert flow_sentences.order(table(folder, "other", FLOW_DEPTHS, "flow_depths"), table(folder, "other", FLOW_CONTRASTS, "flow_contrasts")).startswith(
        "Whether the question's text reaches the role and final tokens before the picture does is not asked of this model"
    )


@pytest.mark.parametrize("other_family", ["paligemma"], indirect=True)
def test_a_model_that_is_recomputed_and_whole_answers(other_family: tuple[Path, Params]) -> None:
    """Effects agree with the model run by hand, answer tokens are traced, and their places aligned."""
    from headflow.ablation import run_gates
    from headflow.gates import Gate
    from headflow.models.baselines import mean_baseline
    from headflow.models.lvlm import load_prepared
    from headflow.targets import Target

    folder, _ = other_family
    examples = EXAMPLES.read(folder / "data/examples.parquet")
    row = FEATURES.read(folder / "data/features/other/features.parquet").join(examples, on="id").filter(id="explain-0").row(0, named=True)
    model = load_prepared(folder / "data/models/other", "cpu")
    capture = model.capture(row["image"], row["question"], row["answer_tokens"])
    assert capture.mode == "recomputed" and len(row["answer_tokens"]) > 2
    baseline = mean_baseline(model.capture(picture, row["question"]) for picture in examples.filter(split="reference")["image"])
    target = Target("answer_logprob", row["answer_tokens"][0], rest=tuple(row["answer_tokens"][1:]))
    roles = np.array(capture.roles)
    after, question = (torch.from_numpy(np.isin(roles, names)).float() for names in (("role", "final", "answer"), ("question",)))
    layers = torch.ones(model.layers)
    layers[0] = 0
    by_hand = {
        "question→role": Gate("nothing", queries=after[-capture.suffix :], keys=question, layers=layers),
        "image→role": Gate(queries=after[-capture.suffix :], layers=layers),
    }
    effects = table(folder, "other", FLOW_EFFECTS, "flow_effects").filter(id="explain-0", first_layer=1, last_layer=model.layers - 1)
    intact = row["stock_target"]
    for route, gate in by_hand.items():
        effect = intact - float(run_gates(capture, [gate], baseline=baseline, target=target))
        assert abs(effect) > 1e-3 and effects.filter(route=route)["effect"][0] == pytest.approx(effect, abs=1e-3)
    tokens = table(folder, "other", TEXT_TOKENS, "text_tokens")
    assert tokens.filter(id="explain-0", heads="all")["role"].to_list() == capture.roles[capture.image.stop :]
    slots = table(folder, "other", TEXT_SLOTS, "text_slots").filter(heads="all", role="answer")
    assert slots["examples"].to_list() == sorted(slots["examples"], reverse=True) and slots["examples"][0] == 3


def test_mistakes_are_one_line(traced: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = tmp_path / "project"
    shutil.copytree(traced("chain"), folder)
    monkeypatch.chdir(folder)

    def said(stage, **changed: dict) -> str:
        content = params("chain", **changed).model_dump(mode="json")
        Path("params.yaml").write_text(yaml.safe_dump(content))
        monkeypatch.setattr(sys, "argv", ["stage", "chain"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            enter(stage.main)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert stop.value.code == 1 and len(lines) == 1
        return lines[0]

    assert "flow.width = 9: the model has 5 layers that read the picture; take 1 to 5" in said(trace_flow, flow={"width": 9})
    assert "text_tokens.windows = 6: the model has 5 layers" in said(trace_text, text_tokens={"windows": 6})
    assert "text_tokens.top_heads = 41: the model has 40 heads" in said(trace_text, text_tokens={"top_heads": 41})
    attributions = Path("data/attributions/chain/attributions.parquet")
    whole = ATTRIBUTIONS.read(attributions)
    ATTRIBUTIONS.write(whole.filter(pl.col("id") != whole["id"][0]), attributions)
    assert "attributions of other examples than the features'; run `dvc repro`" in said(trace_text)
    features = Path("data/features/chain/features.parquet")
    FEATURES.write(FEATURES.read(features).with_columns(explained=pl.lit(False)), features)
    for stage in (trace_text, trace_flow):
        assert "chain: no example is to be explained" in said(stage)
    examples = EXAMPLES.read(Path("data/examples.parquet"))
    FEATURES.write(FEATURES.read(features).with_columns(explained=pl.lit(True)), features)
    EXAMPLES.write(examples.filter(pl.col("id") != whole["id"][0]), Path("data/examples.parquet"))
    assert "made from other examples than" in said(trace_flow)
    with pytest.raises(HeadflowError, match="corners = 3: they come in pairs"):
        checked(folder, {"text_tokens": {"corners": 3}})


def checked(folder: Path, content: dict) -> None:
    from headflow.params import read_params

    (folder / "wrong.yaml").write_text(yaml.safe_dump({"models": {"tiny": {}}, **content}))
    read_params(folder / "wrong.yaml")
