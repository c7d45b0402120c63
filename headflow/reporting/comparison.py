"""The page that sets models side by side: reading their runs, and the parts of the page that are no charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import yaml
from markupsafe import Markup
from scipy import stats

from headflow.analysis.comparison import HALF, MOST, Subject
from headflow.attribution.frames import attribution_grid
from headflow.charts import numbers
from headflow.errors import HeadflowError
from headflow.models.families import family_of
from headflow.models.prepared import PreparedModel, read_prepared
from headflow.reporting import provenance
from headflow.reporting.definitions import TERMS, Term
from headflow.reporting.html import table, tag
from headflow.reporting.words import counted, listed, percent
from headflow.tables import catalogue as tables

CATALOGUE = "docs/catalogue.yaml"
OWN_TERMS = {
    "depth": Term(
        "relative depth",
        "A layer's number (from 0) over the number of layers of the text model, so that models of different depth share one axis. Where only some "
        "layers read the picture (cross-attention), each stands at its own place among all. Equal depth does not mean equal work: layers of "
        "different models have nothing else in common.",
    ),
    "mean-depth": Term(
        "mean depth",
        "The relative depths of all heads, weighted by the size of their mean attribution. If all heads had the same, it would be a little under "
        "one half (with six layers 0.42); models are compared by how far they lie from that.",
    ),
    "share": Term(
        "share of all |attribution|",
        "Attribution averaged over examples, then divided by the summed size (sign left aside) of all heads' averages. It has no unit, so models whose "
        "logits differ in scale can be compared. A layer's share counts signs, so heads that work against each other cancel.",
    ),
    "pairs": Term(
        "difference of two models",
        "Models are asked about the same pictures. Where two explain at least half as many examples in common as the smaller of them has, their difference "
        "is taken over these, and both are left without the same ones in turn (paired); else each is over its own examples and their errors are taken as "
        "independent (unpaired). Limits allow for the number of pairs of models.",
    ),
    "jackknife": Term(
        "interval by leaving out",
        "The number is computed again with each example (of many: each hundredth of them) left out in turn; how far it moves gives its standard error "
        "(jackknife), and Student's t its limits.",
    ),
}
SHARED_TERMS = ("head", "target", "ablation", "baseline", "attribution", "single", "interval", "r")


@dataclass(frozen=True)
class Model:
    """One model's run, as far as it is compared.

    Attributes:
        prepared: its description.
        features: FEATURES of every example put to it.
        fits: FITS of the explained examples.
        attributions: ATTRIBUTIONS of the explained examples.
    """

    prepared: PreparedModel
    features: pl.DataFrame
    fits: pl.DataFrame
    attributions: pl.DataFrame

    @property
    def key(self) -> str:
        return self.prepared.key

    @cached_property
    def subject(self) -> Subject:
        """The run as arrays."""
        ids, grid = attribution_grid(self.attributions)
        _, single = attribution_grid(self.attributions, "single_head_effect")
        fits = pl.DataFrame({"id": ids}, schema={"id": pl.String}).join(self.fits, on="id", how="left", maintain_order="left")
        place = self.prepared.image_layers or range(self.prepared.decoder_layers)
        total = (fits["intact"] - fits["ablated"]).to_numpy()
        return Subject(
            key=self.key, depth=np.asarray(place) / self.prepared.decoder_layers, attribution=grid, single=single.sum((1, 2)), total=total,
            held_out_r=fits["held_out_r"].fill_null(np.nan).to_numpy(), ids=tuple(ids), layers=tuple(place),
        )  # fmt: skip

    @property
    def image_tokens(self) -> str:
        """Fewest and most tokens of the image span over the explained examples; under cross-attention the picture is in no sequence."""
        if self.prepared.image_layers is not None:
            return "none in the prompt"
        spans = self.features.filter("explained").select(pl.col("image_stop") - pl.col("image_start")).to_series()
        fewest, most = int(spans.min() or 0), int(spans.max() or 0)
        return f"{fewest:,}" + (f" to {most:,}" if most > fewest else "")


def load(inputs: Mapping[str, Mapping[str, str]]) -> list[Model]:
    """Read and check the runs of the models that ``inputs`` names: key → path of ``model``, ``features``, ``fits`` and ``attributions``.

    Raises:
        HeadflowError: an input is missing, damaged, explains nothing, or belongs to another run than the rest.
    """
    return [_read(places) for places in inputs.values()]


def _read(places: Mapping[str, str]) -> Model:
    frames = {name: kind.read(Path(places[name])) for name, kind in TABLES.items()}
    model = Model(prepared=read_prepared(Path(places["model"]).parent), **frames)
    where, described = places["attributions"], model.prepared
    if model.attributions.is_empty():
        raise HeadflowError(f"{where}: no example was explained, so {described.key} cannot be compared; give more examples or take it out of `models`")
    if described.image_layers is not None and (len(described.image_layers) != described.layers or max(described.image_layers) >= described.decoder_layers):
        raise HeadflowError(f"{places['model']}: image_layers does not name {described.layers} of {described.decoder_layers} layers; run `dvc repro`")
    explained = set(model.attributions["id"])
    for name, known in (("fits", set(model.fits["id"])), ("features", set(model.features.filter("explained")["id"]))):
        if strangers := explained ^ known:
            raise HeadflowError(f"{places[name]}: example {min(strangers)!r} is not in {where} or only there, so they are of different runs; run `dvc repro`")
    try:
        found = model.subject.attribution.shape[1:]
    except HeadflowError as error:
        raise HeadflowError(f"{where}: {error}") from None
    if found != (described.layers, described.heads):
        raise HeadflowError(
            f"{where}: has {found[0]} layers of {found[1]} heads, but {places['model']} says {described.layers} of {described.heads}; run `dvc repro`"
        )
    return model


TABLES = {"features": tables.FEATURES, "fits": tables.FITS, "attributions": tables.ATTRIBUTIONS}
"""The tables that are read of each model, by the name under which their paths are given."""


def header(models: Sequence[Model], title: str, target: str) -> Markup:
    """Title, the question, and what stands side by side."""
    one = len(models) == 1
    question = (
        "Vision-language models differ in depth, in width and in the scale of their logits. On what they share, relative depth and shares of the whole, "
        "does the picture reach the words in the same way?"
    )
    method = (
        f"Each model was asked about the same pictures, and its attention heads were cut in many combinations; its own report says how. Here "
        f"{models[0].key + ' stands alone' if one else counted(len(models), 'model') + ' stand side by side'}. The target ({target}) has another scale in "
        "every model, so apart from "
        "its fall nothing on this page is in its units: attributions are shares of their summed size, effects shares of the fall when all heads are cut."
    )
    alone = tag(
        "p", f"One model: add others from {CATALOGUE} below ", tag("code", "models:"), " in params.yaml and run ", tag("code", "dvc repro"), " to compare."
    )
    return (
        tag("p", f"headflow comparison · {counted(len(models), 'model')}", class_="kicker")
        + tag("h1", title)
        + tag("p", question, class_="standfirst")
        + tag("p", method)
        + (alone if one else Markup(""))
        + tag("p", "Every term is ", tag("a", "defined at the end", href="#definitions"), "; so are the ", tag("a", "limits", href="#caveats"),
              " of what this can show.", class_="quiet")
    )  # fmt: skip


def overview(models: Sequence[Model], needed: pl.DataFrame, confidence: float) -> Markup:
    """What each model is, what was asked of it, and in how many heads its attribution lies."""
    counts = {(row["model"], row["share"]): row["heads"] for row in needed.iter_rows(named=True)}
    rows = []
    for model in models:
        about = model.prepared
        asked, right, explained = model.features.height, int(model.features["correct"].sum()), model.fits.height
        low, high = numbers.share_interval(right, asked, confidence)
        layers = f"{about.layers}" + (f" of {about.decoder_layers}" if about.layers != about.decoder_layers else "")
        rows.append(
            (
                tag("b", tag("a", model.key, href=f"../{quote(model.key)}/index.html")),
                family_of(about.architecture), f"{layers} × {about.heads}", model.image_tokens,
                f"{explained:,} of {asked:,}", f"{percent(right / asked)} ({percent(low)} to {percent(high)})",
                f"{counts.get((model.key, HALF)) or 'unknown'}, {counts.get((model.key, MOST)) or 'unknown'}",
                about.dtype + (f", {about.quantization}" if about.quantization else ""),
            )
        )  # fmt: skip
    head = ("model", "family", "layers × heads", "image tokens", "explained", "answers right", f"heads for {percent(HALF)}, {percent(MOST)}", "dtype")
    return table(head, rows)


def caveats(models: Sequence[Model], baseline: str) -> Markup:
    """What setting models side by side cannot show."""
    explained = [set(model.fits["id"]) for model in models]
    common = len(set.intersection(*explained))
    differ = any(ids != explained[0] for ids in explained)
    examples = (
        f"A model is explained only where it is asked to be, by default where it answers rightly: {common:,} examples are common to all models "
        "here, and the others differ. A model that fails the hard ones is judged on the easy ones."
        if differ
        else f"All models are explained on the same {counted(common, 'example')}; with others the order of the models may change."
    )
    points = [
        ("Not the same examples." if differ else "These examples only.", examples),
        (
            "Noise looks like spread.",
            "Every head has some attribution by chance, and many weak heads together hold a good part of the sum. With few masks or examples, or many "
            "heads, a model looks less concentrated than it is, and its mean depth lies nearer to an even spread; models are best compared with like "
            "numbers of masks for each head.",
        ),
        (
            "The same baseline is not the same picture.",
            f"A cut head reads the baseline “{baseline}” in every model, but what that leaves of a picture depends on the model's own vision tower.",
        ),
        ("Depth is no organ.", "Two models may do the same work at different depths, or different work at the same depth; shares of attribution cannot tell."),
        (
            "Intervals are about examples.",
            "They say how far a number would move with other examples of the same kind, not with other training runs of the same model.",
        ),
    ]
    return tag(
        "div", tag("h2", "What this cannot show", id="caveats"), tag("ul", *(tag("li", tag("b", head), " ", text) for head, text in points)), class_="caveats"
    )


def definitions() -> Markup:
    """The terms that this page uses, with an anchor ``term-…`` each."""
    terms = {key: TERMS[key] for key in SHARED_TERMS} | OWN_TERMS
    entries = [tag("dt", term.name, id=f"term-{key}") + tag("dd", term.meaning) for key, term in terms.items()]
    return tag("h2", "Definitions", id="definitions") + tag("dl", *entries, class_="definitions")


def how(text: str, *terms: str) -> Markup:
    """A how-line with links to this page's own terms as well as the shared ones."""
    known = TERMS | OWN_TERMS
    links = Markup(", ").join(tag("a", known[term].name, href=f"#term-{term}") for term in terms)
    return Markup("{} Defined below: {}.").format(text, links)


def colophon(models: Sequence[Model], params: Mapping[str, Any], folder: Path = Path()) -> Markup:
    """Exactly which models were compared, the params, versions and the git commit."""
    rows = [(model.key, model.prepared.id, model.prepared.revision or "none", model.prepared.fingerprint[:16]) for model in models]
    facts = [
        ("git commit", provenance.commit(folder)),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance.versions().items())),
    ]
    return (
        tag("h2", "Made with", id="colophon")
        + table(["model", "id", "revision", "fingerprint"], rows, class_="facts")
        + tag("table", tag("tbody", *(tag("tr", tag("th", name), tag("td", value)) for name, value in facts)), class_="facts")
        + tag("details", tag("summary", "parameters"), tag("pre", yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)))
    )


def examples_said(models: Sequence[Model], confidence: float, whose: str = "") -> str:
    """Which models answer rightly how often, in one sentence.

    Args:
        whose: whose answer is explained.
    """
    shares = {model.key: (int(model.features["correct"].sum()), model.features.height) for model in models}
    limits = {key: numbers.share_interval(*share, confidence) for key, share in shares.items()}
    said = {key: f"{key} {percent(right / asked)} ({percent(limits[key][0])} to {percent(limits[key][1])})" for key, (right, asked) in shares.items()}
    none = [key for key, (right, _) in shares.items() if right == 0]
    tail, nothing = f"; explained is {whose}" if whose else "", "how a right answer comes about"
    if len(said) == 1:
        ((key, (right, asked)),) = shares.items()
        if none:
            return f"{key} answers none of {counted(asked, 'question')} rightly: {said[key].removeprefix(key + ' ')}, so nothing here tells {nothing}{tail}."
        return f"{key} answers {right:,} of {counted(asked, 'question')} rightly: {said[key].removeprefix(key + ' ')}{tail}."
    order = sorted(shares, key=lambda key: shares[key][0] / shares[key][1])
    worst, best = order[0], order[-1]
    start = f"Answered rightly: {listed([said[key] for key in shares]) if len(said) <= 4 else f'between {said[worst]} and {said[best]}'}"
    if len(none) == len(said):
        return f"No model answers any question rightly ({start.removeprefix('Answered rightly: ')}), so nothing here tells {nothing}{tail}."
    ahead = _ahead({model.key: model.features for model in models}, best, confidence)
    verdict = (
        f"{best} is ahead of {listed(ahead) if len(ahead) <= 3 else f'{len(ahead)} of the {len(said) - 1} others'}"
        if ahead
        else "which model answers best cannot be told"
    )
    fail = listed(none) if len(none) <= 3 else f"{len(none)} models"
    never = f"; {fail} {'answers' if len(none) == 1 else 'answer'} none rightly, so nothing there tells {nothing}" if none else ""
    return f"{start}; {verdict}{never}{tail}."


def _ahead(features: Mapping[str, pl.DataFrame], best: str, confidence: float) -> list[str]:
    """The models that ``best`` is ahead of by McNemar's exact test on the questions put to both, with Bonferroni's correction for all pairs of models."""
    pairs = len(features) * (len(features) - 1) / 2
    found = []
    for key, frame in features.items():
        both = features[best].join(frame, on="id", suffix="_other")
        won, lost = both.filter(pl.col("correct") & ~pl.col("correct_other")).height, both.filter(~pl.col("correct") & pl.col("correct_other")).height
        if key != best and won > lost and stats.binomtest(won, won + lost).pvalue * pairs < 1 - confidence:
            found.append(key)
    return found
