"""The parts of the article that are no charts: head, scenes, prompt, numbers, caveats, colophon."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from markupsafe import Markup

from headflow.charts.pictures import data_uri, longest_side
from headflow.charts.theme import palette
from headflow.reporting import provenance, targets
from headflow.reporting.html import table, tag
from headflow.reporting.run import Run
from headflow.reporting.sentences.clusters import makeup
from headflow.reporting.words import MINUS, counted, interval, listed, number, percent

BASELINES = {
    "mean": "the average over reference pictures",
    "blank": "a uniform grey picture",
    "swap": "another picture",
    "closed": "nothing",
}
PREFIX_MODES = {
    "shared": "what stands before the question is computed once and shared by all masked runs",
    "recomputed": "later tokens reach back in this model, so every masked run computes the whole prompt anew",
    "cross": "the picture is read through layers of cross-attention, whose keys all masked runs share",
}
ROLES = ("system", "image", "question", "role", "final", "answer")
MOST_TOKENS = 160
MOST_QUESTIONS = 4
MOST_SKIPPED = 20
LONG_ANSWER = 20
"""Letters beyond which answers need wider cards."""
LONGEST_TEXT = 240
"""Letters of a question or an answer that are shown."""
PHOTOGRAPH = 64
"""Pictures with a longer side than this, pixels, are shown larger."""
LARGE = 400
"""Longest side of the pictures that are shown larger, pixels."""
TRUST = "trust"
"""Name of the page that says how far to trust the report, and tag of its cells."""
TRUST_TITLE = "How far to trust this"
TOKENS = "tokens"
"""Name of the page that traces the picture through tokens and single heads, and tag of its cells."""
TOKENS_TITLE = "Where the information goes"
DESCRIPTIONS = "descriptions"
"""Name of the page about what the model says of whole pictures, and tag of its cells."""
DESCRIPTIONS_TITLE = "What its descriptions need"


def header(run: Run) -> Markup:
    """Title, the question in plain words, and the method in one paragraph."""
    questions = run.asked["question"].unique(maintain_order=True).to_list()
    quoted = [f"“{_clipped(question)}”" for question in questions[:MOST_QUESTIONS]]
    if len(questions) > MOST_QUESTIONS:
        quoted.append(f"{len(questions) - MOST_QUESTIONS} more")
    purposes = dict(run.masks["purpose"].value_counts().iter_rows())
    features = run.params["features"]
    ships = "the small model that ships with headflow; " if run.model["id"] == "embedded" else ""
    explained = len(run.explained)
    question = Markup(
        "A vision-language model sees a picture, is asked about it, and answers in words. Somewhere between, attention heads must have "
        "carried what is in the picture over to the words. Which of its {} heads{} did it{}?"
    ).format(
        f"{run.model['layers'] * run.model['heads']:,}",
        " that read the picture" if run.reading_layers else "",
        ", and what do they follow: what the thing is, or what it looks like" if run.labelled else "",
    )
    method = Markup(
        "Here {} ({}) was asked {} about {} ({}). For {}, its heads were <a href='#term-ablation'>cut</a> "
        "in {} (<a href='#term-mask'>masks</a>): a cut head reads {} where the picture was, and all else stays as it is. "
        "A linear regression of the {} (the <a href='#term-target'>target</a>) on which heads were intact{} then gives each head an "
        "<a href='#term-attribution'>attribution</a>: what it adds when it sees the picture. The fit is judged on {} that it never saw."
    ).format(
        run.key,
        ships + layers_said(run.model),
        counted(run.asked.height, "question"),
        counted(run.asked["scene"].n_unique(), "picture"),
        listed(quoted),
        "the one example explained" if explained == 1 else f"each of {explained:,} examples explained",
        counted(purposes.get("fit", 0), "combination"),
        BASELINES.get(features["baseline"], features["baseline"]),
        targets.described(features),
        f", starting from its gradients at {counted(purposes['corner'], 'further combination')}" if purposes.get("corner") else "",
        counted(purposes.get("held_out", 0), "combination"),
    )
    return (
        tag("p", f"headflow report · {run.key}", class_="kicker")
        + tag("h1", run.params["report"]["title"])
        + tag("p", question, class_="standfirst")
        + tag("p", method)
        + tag(
            "p",
            "Every term is ",
            tag("a", "defined at the end", href="#definitions"),
            ". Checks, tests on known circuits and the ",
            tag("a", "limits", href=f"{TRUST}.html#caveats"),
            " of what this can show stand on a page of their own: ",
            tag("a", TRUST_TITLE, href=f"{TRUST}.html"),
            ". All models of this run stand side by side in the ",
            tag("a", "comparison", href="../comparison/index.html"),
            ".",
            class_="quiet",
        )
    )


def layers_said(model: Mapping[str, Any]) -> str:
    """How many layers of how many heads, and which of them read the picture where only some do."""
    heads = counted(model["heads"], "head")
    if not (through := model.get("image_layers")):
        return f"{counted(model['layers'], 'layer')} of {heads}"
    every, one = model.get("decoder_layers") or model["layers"], len(through) == 1
    return f"{counted(every, 'layer')}, of which {len(through)} {'reads' if one else 'read'} the picture, {_named(through)}, with {heads} each"


def _named(layers: Sequence[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {listed([str(layer) for layer in layers])}"


def in_short(findings: Iterable[tuple[str, str]], title: str = "In short", id: str = "in-short", page: str = "") -> Markup:
    """The sentences of the main figures, each with the id of its figure and linking to it; ``page`` is the file where they stand, if it is another."""
    items = [tag("li", sentence, " ", tag("a", "figure", href=f"{page}#{figure}")) for figure, sentence in findings]
    return tag("div", tag("h2", title), tag("ul", *items), class_="in-short", id=id)


def trust_header(run: Run) -> Markup:
    """Head of the page that says how far to trust the report."""
    standfirst = (
        "An attribution method that nobody can check is an opinion. So before the heads of this model are believed: is the truth found where it is known, "
        "does cutting a head do what it claims, does the sum over heads predict the model, and what can none of it show?"
    )
    return _further_header(run, TRUST_TITLE, standfirst, "What was found is told in the ", tag("a", "report", href="index.html"))


def tokens_header(run: Run) -> Markup:
    """Head of the page that traces the picture through tokens and single heads."""
    standfirst = (
        "The heads that carry the picture take it from some of its parts and bring it to some of the words. Which words receive it, by which way and in "
        "what order, which parts of the picture give it, and what does each head read and write?"
    )
    report, trust = tag("a", "report", href="index.html"), tag("a", "page of its own", href=f"{TRUST}.html")
    return _further_header(run, TOKENS_TITLE, standfirst, "Which heads they are is told in the ", report, "; how far the method can be trusted, on a ", trust)


def descriptions_header(run: Run) -> Markup:
    """Head of the page about what the model says of whole pictures."""
    standfirst = (
        "Asked to describe a picture, a model writes word after word. Does it look at the picture as it writes, or does the text before it already hold what "
        "it says? Where do its words look, what is left when they may not, and how little of the picture does it need to answer further questions?"
    )
    paper = tag("a", "Kaduri et al. 2025", href="https://arxiv.org/abs/2411.17491")
    report, goes = tag("a", "report", href="index.html"), tag("a", "page of its own", href=f"{TOKENS}.html")
    others = ("These are the analyses of ", paper, ", with this model. Which heads carry the picture is told in the ", report, "; where it goes, on a ", goes)
    return _further_header(run, DESCRIPTIONS_TITLE, standfirst, *others)


def descriptions(pictures: pl.DataFrame, most: int) -> Markup:
    """The first ``most`` pictures with what the model says of them, and the true description where it is known.

    Args:
        pictures: ``id``, ``image``, ``said`` and ``description`` (the true one) of each picture.
    """
    large = any(longest_side(picture) > PHOTOGRAPH for picture in pictures.head(most)["image"])
    cards = []
    for row in pictures.head(most).iter_rows(named=True):
        lines = [tag("p", tag("span", "said ", class_="quiet"), tag("b", _clipped(row["said"])))]
        if row["description"]:
            lines.insert(0, tag("p", tag("span", "true ", class_="quiet"), _clipped(row["description"])))
        cards.append(tag("div", thumbnail(row["image"], row["id"], large=large), *lines, class_="scene"))
    return tag("div", *cards, class_="scenes photographs" if large else "scenes wide")


def note(text: str) -> Markup:
    """A warning that a reader must not miss."""
    return tag("p", text, class_="warning")


def thumbnail(image: bytes, id: str, *, large: bool = False) -> Markup:
    """A picture as an element."""
    return tag("img", src=data_uri(image, LARGE) if large else data_uri(image), alt=id)


def _further_header(run: Run, title: str, standfirst: str, *others: str | Markup) -> Markup:
    """Head of a page beside the main one: ``others`` says what stands on the other pages."""
    terms = tag("a", "defined at the end", href="#definitions")
    return (
        tag("p", f"headflow report · {run.key}", class_="kicker") + tag("h1", title) + tag("p", standfirst, class_="standfirst")
        + tag("p", *others, ". Terms are ", terms, ".", class_="quiet")
    )  # fmt: skip


def scenes(run: Run, most: int) -> Markup:
    """The first ``most`` examples with their answers, then a few of those left out: none is picked by hand."""
    asked = run.asked
    first = asked.head(most)
    left_out = asked.filter(~pl.col("explained")).join(first, on="id", how="anti").head(4)
    many = asked["question"].n_unique() > 1
    long = max((len(answer or "") for answer in (*first["answer"], *first["stock_answer"])), default=0) > LONG_ANSWER
    large = any(longest_side(picture) > PHOTOGRAPH for picture in first["image"])
    shape = "scenes photographs" if large else "scenes wide" if long or many else "scenes"

    def cards(rows: pl.DataFrame) -> Markup:
        return tag("div", *(_card(row, many, large) for row in rows.iter_rows(named=True)), class_=shape)

    blocks = [cards(first)]
    if not left_out.is_empty():
        blocks += [tag("p", "Further examples that were left out:", class_="quiet"), cards(left_out)]
    return Markup("").join(blocks)


def _card(row: Mapping[str, Any], with_question: bool, large: bool) -> Markup:
    right = bool(row["correct"])
    lines = [tag("p", _clipped(row["question"]), class_="quiet")] if with_question else []
    lines += [
        tag("p", tag("span", "true ", class_="quiet"), _clipped(row["answer"])),
        tag("p", tag("span", "said ", class_="quiet"), tag("b", _clipped(row["stock_answer"]))),
        tag("p", "✓ " if right else "✗ ", "left out" if not row["explained"] else "right" if right else "wrong", class_="verdict"),
    ]
    uri = data_uri(row["image"], LARGE) if large else data_uri(row["image"])
    picture = tag("img", src=uri, alt=f"{row['id']}: {_clipped(row['answer'])}")
    return tag("div", picture, *lines, class_="scene" if right else "scene wrong")


def _clipped(text: str | None) -> str:
    """``text``, cut where it is longer than anybody reads on a card; a dash where there is none."""
    if not text:
        return "–"
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT].rstrip() + " …"


def skipped(run: Run) -> Markup | None:
    """The faulty rows of the data and the examples that could not be put to the model, each with its reason; None if there are none."""
    frames = {"preparing the data": run.skipped_rows, "asking this model": run.skipped_examples}
    # Rows go by the names that the data set gives them; an example's id is such a name behind that of its part.
    own = pl.col("id") if run.skipped_rows.is_empty() else pl.when(pl.col("row").is_not_null()).then(pl.col("id").str.strip_prefix("explain-")).otherwise("id")
    found = pl.concat([frame.with_columns(own.alias("id"), pl.lit(where).alias("where")) for where, frame in frames.items()])
    rows = [
        ("" if row["row"] is None else f"{row['row']:,}", row["id"] or "–", row["reason"], row["where"])
        for row in found.sort("row", nulls_last=True, maintain_order=True).iter_rows(named=True)
    ]
    if not rows:
        return None
    shown = table(["row", "example", "what is wrong with it", "found when"], rows[:MOST_SKIPPED], class_="skipped")
    more = len(rows) - MOST_SKIPPED
    return shown + (tag("p", f"and {more:,} more", class_="quiet") if more > 0 else "")


def prompt(row: Mapping[str, Any]) -> Markup:
    """One example's prompt token by token (a row of ``Run.asked``); the image span is drawn as its picture."""
    start, stop = row["image_start"], row["image_stop"]
    pieces = list(zip(row["tokens"], row["roles"], strict=True))
    count = f" × {stop - start:,}" if stop - start > 1 else ""
    span = tag("span", tag("img", src=data_uri(row["image"]), alt="the picture"), count, class_="token role-image", title="image span")
    shown = [*(_token(*piece) for piece in pieces[:start]), span, *(_token(*piece) for piece in pieces[stop:])]
    if len(shown) > MOST_TOKENS:
        half = MOST_TOKENS // 2
        shown = [*shown[:half], tag("span", f"… {len(shown) - 2 * half} more …", class_="quiet"), *shown[-half:]]
    used = [role for role in ROLES if role in set(row["roles"])]
    legend = tag("p", *(tag("span", role, class_=f"token role-{role}") for role in used), class_="legend")
    if "answer" not in used:  # else its tokens are part of the prompt already
        shown += [tag("span", " → ", class_="quiet"), tag("span", _clipped(row["stock_answer"]), class_="token role-answer")]
    return tag("div", legend, tag("p", *shown, class_="prompt"))


def _token(text: str, role: str) -> Markup:
    visible = text.replace("\n", "↵").replace("▁", " ").replace("Ġ", " ").replace("Ċ", "↵")
    visible = visible if visible.strip() else "␣" * max(1, len(visible))
    return tag("span", visible, class_=f"token role-{role if role in ROLES else 'other'}", title=role)


def checks(values: Mapping[str, Any], prefix_mode: str | None = None) -> Markup:
    """The numbers that the checks of the intervention gave; what the one of the prefix means depends on how masked runs treat it."""
    prefix = {
        "recomputed": ": it does change, so every mask runs the whole sequence",
        "shared": ": it must not change, as all masked runs share it",
    }
    meaning = {
        "identity": "nothing cut, against the untouched model",
        "swap": "every head cut and shown another picture, against the untouched model on that picture",
        "prefix": "everything before the question, with the question and with another text of its length" + prefix.get(prefix_mode or "", ""),
        "effect": "every head cut: the logits must move",
        "tolerance": "what the first two may reach",
    }
    known = list(meaning)
    values = dict(sorted(values.items(), key=lambda item: known.index(item[0]) if item[0] in known else len(known)))
    rows = [
        (name.replace("_", " "), next((text for key, text in meaning.items() if name.startswith(key)), ""), _value(value)) for name, value in values.items()
    ]
    if prefix_mode == "cross" and rows:
        rows.insert(min(2, len(rows)), ("prefix", "does not apply: the picture stands beside the text, and no text changes it", "–"))
    return table(["check", "what is compared", "found"], rows) if rows else tag("p", "No record of the checks was found.", class_="quiet")


def pairs(run: Run) -> Markup | None:
    """Every pair of heads that was tested, folded; None if none was."""
    rows = run.interactions.sort(["q", pl.col("effect").abs()], descending=[False, True], nulls_last=True)
    if rows.is_empty():
        return None
    cells = [
        (f"L{row['layer']} H{row['head']}", f"L{row['other_layer']} H{row['other_head']}", number(row["effect"], signed=True),
         interval(row["low"], row["high"], signed=True), number(row["q"]), percent(row["same_sign"]), row["kind"])
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    head = ["head", "other head", f"interaction, {run.unit}", f"{run.level('interactions'):.0%} interval", "q", "examples of that sign", "finding"]
    return tag("details", tag("summary", f"all {counted(rows.height, 'pair')} tested" if rows.height > 1 else "the pair tested"), table(head, cells))


def clusters(run: Run) -> Markup | None:
    """What each cluster of heads is made of, and the pictures that rest on it most; None if there are no two to tell apart."""
    if run.clusters.height < 2:
        return None
    colours = palette(str(cluster) for cluster in run.clusters["cluster"])
    shown = run.cluster_examples.join(run.pictures_of(run.cluster_examples["id"]), on="id").join(run.names, on="id").sort("cluster", "rank")
    parts = []
    for row in run.clusters.sort("cluster").iter_rows(named=True):
        swatch = tag("span", "■ ", style=f"color: {colours[str(row['cluster'])]}")
        cards = [
            tag("div", tag("img", src=example["image"], alt=f"{example['id']}: {_clipped(example['name'])}"),
                tag("p", _clipped(example["name"])), tag("p", f"{percent(example['share'])} of its attributions", class_="verdict"), class_="scene")
            for example in shown.filter(pl.col("cluster") == row["cluster"]).iter_rows(named=True)
        ]  # fmt: skip
        parts += [tag("p", swatch, tag("b", f"Cluster {row['cluster']}"), f": {makeup(row)}."), tag("div", *cards, class_="scenes")]
    return Markup("").join(parts)


def metrics(run: Run) -> Markup:
    """Every number that the stages recorded, folded."""
    titles = {
        "prepare_model": "The model",
        "extract_features": "Examples",
        "run_ablations": "Masked runs",
        "fit_attributions": "Fit",
        "evaluate_faithfulness": "Orders of heads put to the test",
        "score_planted": "Planted circuit of this model",
        "compare_baselines": "Baselines",
        "cluster_heads": "Clusters and separation",
        "find_interactions": "Pairs of heads",
        "trace_text": "Tokens of the text",
        "trace_flow": "Ways and their depths",
        "trace_image": "Tokens of the picture",
        "keep_image_tokens": "Few image tokens",
        "read_heads": "Single heads",
    }
    parts = []
    for stage, content in run.metrics.items():
        rows = [(name.replace("_", " ").replace(".", " · "), _value(value)) for name, value in content.items() if not name.startswith("checks.")]
        if rows:
            parts.append(
                tag(
                    "details",
                    tag("summary", f"{titles.get(stage, stage)} ({counted(len(rows), 'value')})"),
                    table(["measure", "value"], rows, class_="measures"),
                )
            )
    return Markup("").join(parts) or tag("p", "No stage recorded any.", class_="quiet")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}".replace("-", MINUS) if abs(value) >= 0.001 else number(value)


def caveats(run: Run) -> Markup:
    """What this cannot show."""
    features = run.params["features"]
    baseline = features["baseline"]
    points = [
        (
            "A sum stands in for a model.",
            "Attributions are the coefficients of a linear fit. What heads do only together is shared out among them; the held-out fit says how much is lost, "
            "and only pairs that stand out from it are found.",
        ),
        (
            "“Not seeing” had to be given a meaning.",
            f"Here a cut head reads {BASELINES.get(baseline, baseline)} where the picture was (baseline “{baseline}”). Another baseline can "
            "give other numbers and another ranking" + (".", "; how far it does is shown above.")[not run.baseline_agreement.is_empty()],
        ),
        (
            "Masks leave the model's home ground.",
            "With many heads cut at once the model is in states it never met in training, where fall-back routes may wake up. The figures "
            "show what heads can do there, not only what they do in the untouched model.",
        ),
        (
            "Planted circuits are small and tidy.",
            "To find them is the least that a method must do. That it finds them does not prove that it finds everything in a trained model, where thousands "
            "of small effects and interactions overlap.",
        ),
        (
            "Attribution is tied to one target.",
            "Two examples with the same answer share what is explained, so attributions may look alike for that reason too, not "
            "only because the things are alike.",
        ),
        (
            "Intervals are about examples.",
            f"They are at {run.confidence:.0%} over the examples at hand, one head at a time. They say nothing of other models, questions or kinds of picture, "
            "and count questions about one picture as independent.",
        ),
        (
            "Standard errors of one example are about masks.",
            "They say how far another draw of masks would move its attributions, not what a sum over heads cannot say. On planted circuits with "
            "interactions, 95% intervals are tested to hold the exact value of 90 to 99% of the heads over 200 draws of random masks.",
        ),
        _about_answers(features),
    ]
    if features.get("answer") == "greedy":
        points.append(("What the model says is explained, right or wrong.", "A head that carries a mistake counts like one that carries the truth."))
    if not run.labelled:
        points.append(("Nothing is known of the pictures but their answers.", "Whether heads follow meaning or looks needs labels of both."))
    return tag(
        "div", tag("h2", "What this cannot show", id="caveats"), tag("ul", *(tag("li", tag("b", head), " ", text) for head, text in points)), class_="caveats"
    )


def _about_answers(features: Mapping[str, Any]) -> tuple[str, str]:
    if targets.whole_answer(features):
        return "Long answers weigh more.", "The target adds up over the tokens of an answer, so examples with long answers have larger attributions."
    return "Only the first token of an answer counts.", "What comes after it, in answers of several tokens, is not explained."


def colophon(run: Run, folder: Path = Path()) -> Markup:
    """Params of every group used, the model and how it was run, versions, seeds, the git commit."""
    params = {group: value for group, value in run.params.items() if group != "models"}
    params["models"] = {run.key: run.params.get("models", {}).get(run.key)}
    seeds = listed([f"{group} {value['seed']}" for group, value in params.items() if isinstance(value, dict) and "seed" in value])
    model, own = run.model, params["models"][run.key] or {}
    facts = [
        ("model", f"{model['id']}, {model['architecture']}, revision {model.get('revision') or 'none'}"),
        ("code of the checkpoint", "executed (trust_remote_code: true)" if model.get("trust_remote_code") else "none executed (trust_remote_code: false)"),
        ("weights", f"{model['dtype']}, {'quantised to ' + model['quantization'] if model.get('quantization') else 'not quantised'}"),
        ("attention", f"{model.get('attn') or 'auto'} in the untouched model; masked runs bring their own"),
        ("device map", own.get("device_map") or "auto"),
        ("layers", _layers(model)),
        ("masked runs", PREFIX_MODES.get(run.prefix_mode or "", "not recorded")),
        ("target", f"{targets.described(run.params['features'])}, in {run.unit}"),
        ("fingerprint", model["fingerprint"]),
        ("seeds", seeds or "none"),
        ("git commit", provenance.commit(folder)),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance.versions().items())),
    ]
    written = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    warning = tag(
        "p",
        tag("b", "This run executed code that came with the model"),
        " (trust_remote_code: true). headflow's checks test what the heads do, not what else that code does; read it before you trust it.",
        class_="warning",
    )
    return (
        tag("h2", "Made with", id="colophon")
        + (warning if model.get("trust_remote_code") else "")
        + tag("table", tag("tbody", *(tag("tr", tag("th", name), tag("td", value)) for name, value in facts)), class_="facts")
        + tag("details", tag("summary", "parameters"), tag("pre", written))
    )


def _layers(model: Mapping[str, Any]) -> str:
    """Which decoder layers the figures show."""
    if not model.get("image_layers"):
        return f"{layers_said(model)}, all layers of the decoder"
    return f"{layers_said(model)}; figures show these alone, under their numbers in the decoder"
