"""What the model has to do for the current params, stage by stage, and what of it the result store holds.

Nothing is run: each stage's own masks are asked of the store as the stage would ask for them, and what is not found is counted. Where an earlier
stage has not told yet what the masks are about (features, top heads …), they are only counted; where their number hangs on results, the most
that there can be is given.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np

from headflow.cli import description_work as described
from headflow.cli.stored import StoreView
from headflow.cli.work import Empty, Heard, Listed, Missing, Tally, Work, nothing
from headflow.errors import HeadflowError

STAGES = (
    "extract_features", "run_ablations", "evaluate_faithfulness", "compare_baselines", "trace_text", "trace_flow", "trace_image", "keep_image_tokens",
    "read_heads", "describe_images", "share_attention", "localise_objects", "knock_out_attention", "compress_context",
)  # fmt: skip


def list_work(listed: Listed, store: StoreView) -> Iterator[Work]:
    """The work of every model-bound stage, in the order of the pipeline."""
    for stage in STAGES:
        yield _COUNTERS[stage](listed, store)


def _tally(stage: str, listed: Listed, store: StoreView, known: bool = True) -> Tally:
    known = known and listed.known
    return Tally(stage, store if known else Empty(), known)


def _extract_features(listed: Listed, store: StoreView) -> Work:
    examples = listed.outline.examples if listed.outline is not None else len(listed)
    references = listed.outline.references if listed.outline is not None else 0
    # Captured, and a few tokens generated; the baseline is of references.
    return Work("extract_features", captures=3 * examples + references, done=listed.known, known=False)


def _run_ablations(listed: Listed, store: StoreView) -> Work:
    from headflow.attribution.adaptive import FIRST, LOOK
    from headflow.attribution.masks import mask_table, unpack

    params, tally = listed.params, _tally("run_ablations", listed, store)
    table = mask_table(listed.layers, listed.heads, **params.masks.model_dump(exclude={"precision"}))
    corner = (table["purpose"] == "corner").to_numpy()
    corners = unpack(table.filter(corner)["bits"].to_list(), listed.layers, listed.heads)
    table = table.filter(~corner)
    masks, purposes = unpack(table["bits"].to_list(), listed.layers, listed.heads), table["purpose"].to_list()
    starts = [place for place, purpose in enumerate(purposes) if place == 0 or purpose != purposes[place - 1]]
    first_fit = purposes.index("fit")
    starts += [first_fit + look for look in (FIRST, LOOK) if first_fit + look < len(masks)]
    for _, context, _ in listed:
        tally.example()
        if len(corners):
            tally.gradients(context, corners)
        tally.masks(context, masks, starts=starts)
    tally.work.most = params.masks.precision is not None
    return tally.work


def _compare_baselines(listed: Listed, store: StoreView) -> Work:
    from headflow.execution.fingerprint import digest, unit_key
    from stages.compare_baselines import ABLATED, draw_masks, sample

    params, settings = listed.params, listed.params.baselines
    masks = draw_masks(settings, listed.layers, listed.heads, params.masks.estimand, params.masks.ablation_probability)
    chosen = sample(listed.ids, settings)
    total: list[Tally] = []
    for kind in settings.kinds:
        # The mean of the references is known where the run itself takes it.
        known = listed.known and (kind != "mean" or listed.subjects.kind == "mean")
        tally = _tally("compare_baselines", listed, store, known)
        total.append(tally)
        if known:
            examples = [(one.context, not (kind == "swap" and not one.swapped)) for one in _under(listed.subjects, kind) if one.id in chosen]
        else:
            examples = [("", True)] * len(chosen)
        for context, possible in examples:
            if not possible:
                continue
            tally.example()
            tally.gradients(context, masks.corners)
            tally.masks(context, masks.run, starts=masks.starts)
            ends = masks.run[: ABLATED + 1]
            tally.record(unit_key(digest(context, "said"), ends), 3 * len(ends), forwards=len(ends))
    whole = Work("compare_baselines", known=all(tally.work.known for tally in total))
    for tally in total:
        for name in ("records", "forwards", "gradients", "found_records", "found_forwards", "found_gradients", "examples", "examples_left"):
            setattr(whole, name, getattr(whole, name) + getattr(tally.work, name))
        whole.sizes += tally.work.sizes
    return whole


def _under(subjects: Any, kind: str) -> Any:
    """The same examples under a baseline that needs no model to be made."""
    from stages.references import make_baseline

    if kind == subjects.kind:
        return subjects
    other = copy.copy(subjects)
    other.__dict__.pop("_common", None)
    other.kind, other.shared = kind, make_baseline(kind, other.model, subjects.rows.clear())
    return other


def _evaluate_faithfulness(listed: Listed, store: StoreView) -> Work:
    from headflow.attribution import faithfulness, rankings
    from stages.evaluate_faithfulness import gradients_key

    settings, layers, heads = listed.params.faithfulness, listed.layers, listed.heads
    tally = _tally("evaluate_faithfulness", listed, store)
    gates = rankings.gradient_gates(layers, heads, settings.rankings, settings.path_points)
    alone, ks = rankings.alone(layers, heads), faithfulness.counts(layers * heads, settings.points)
    measured: list[dict] = []
    for _, context, _ in listed:
        tally.example()
        if "restoration" in settings.rankings:
            tally.masks(context, alone)
        if len(gates):
            tally.record(gradients_key(context, gates), gates.size, gradients=len(gates))
    if listed.known and tally.work.found_records == tally.work.records:
        measured = _measured(listed, store, settings)
    orders = _orders(listed, settings, measured) if measured or (listed.known and not tally.work.records) else None
    if orders is not None:
        for number, (_, context, _) in enumerate(listed):
            tally.example()
            wanted = faithfulness.plan(np.stack([order[number] for order in orders]), ks)
            tally.masks(context, wanted.masks, starts=wanted.starts)
        return tally.work
    # Each order needs its heads up to k intact, or ablated, at every k but none and all; a random order is each example's own.
    many = 2 * len(settings.rankings) - ("random" in settings.rankings)
    each = 2 * (len(ks) - 2)
    for _ in range(len(listed)):
        # The curves come after what orders the heads, in the same process: no further capture of the example is counted.
        tally._left = True
        tally.bound(1 + many * -(-each // 64), 0, min(each, 64), forwards=2 + many * each)
    tally.work.most = True
    return tally.work


def _measured(listed: Listed, store: StoreView, settings: Any) -> list[dict]:
    """Scores that the stage finds by runs, of every example; all of them are in the store."""
    from stages.evaluate_faithfulness import measure

    wanted = [name for name in settings.rankings if name in ("restoration", "gradient", "integrated")]
    if not wanted:
        return []
    try:
        return [
            measure(store, SimpleNamespace(id=name, context=context, prepare=nothing), listed.layers, listed.heads, wanted, settings.path_points, "auto")
            for name, context, _ in listed
        ]  # fmt: skip
    except Missing:
        return []


def _orders(listed: Listed, settings: Any, measured: list[dict]) -> list[np.ndarray] | None:
    """The orders of heads that curves are drawn for, as the stage makes them; None where attributions are not there yet."""
    from headflow.attribution import rankings
    from stages.evaluate_faithfulness import read_scores

    try:
        scores = read_scores(listed.key, listed.ids, settings)
    except HeadflowError:
        return None
    if measured:
        scores |= {name: np.stack([one[name] for one in measured]) for name in measured[0]}
    if "random" in settings.rankings:
        scores["random"] = np.stack([rankings.random_scores(listed.layers, listed.heads, seed=settings.seed, example=name) for name in listed.ids])
    scores = {name: scores[name] for name in settings.rankings}
    own = [rankings.places(grid) for grid in scores.values()]
    return own + [np.broadcast_to(rankings.places(grid.mean(0)), grid.shape) for name, grid in scores.items() if name != "random"]


def _top_heads(listed: Listed, settings: Any, group: str) -> np.ndarray | None:
    """The heads that tracing looks at alone; None where attributions are not there yet."""
    from stages.carriers import read_top_heads

    try:
        return read_top_heads(listed.key, listed.ids, settings.top_heads, settings.top_share, group=group) if listed.known else None
    except HeadflowError:
        return None


def _trace_text(listed: Listed, store: StoreView) -> Work:
    from headflow.tracing.bands import side_by_side
    from headflow.tracing.components import single_tokens
    from headflow.tracing.templates import suffixes
    from headflow.tracing.text_masks import plan
    from headflow.tracing.text_tokens import HEADS

    settings, layers = listed.params.text_tokens, listed.layers
    bands, chosen = side_by_side(layers, settings.windows), _top_heads(listed, settings, "text_tokens")
    tally = _tally("trace_text", listed, store, chosen is not None)
    chosen = np.ones((layers, listed.heads), bool) if chosen is None else chosen
    tokens, _ = suffixes(listed.rows, cross=listed.cross)
    for (_, context, _), mine in zip(listed, tokens, strict=True):
        one = plan(len(bands), len(mine), count=settings.count, corners=settings.corners, held_out=settings.held_out, seed=settings.seed)
        tally.example()
        for heads in HEADS:
            components = single_tokens(len(mine), bands, layers, chosen if heads == "top" else None)
            tally.masks(context, one.masks, starts=one.starts, components=components)
            if len(one.corners):
                tally.gradients(context, one.corners, components=components)
    return tally.work


def _trace_flow(listed: Listed, store: StoreView) -> Work:
    import torch

    from headflow.tracing.bands import as_masks, sweep
    from headflow.tracing.components import FROM_IMAGE, Routes, routes
    from headflow.tracing.flow import flow_masks

    settings, tally = listed.params.flow, _tally("trace_flow", listed, store)
    steps = sweep(listed.layers, settings.width, settings.stride)
    held = torch.from_numpy(as_masks(list(steps.bands), listed.layers))
    reads = "nothing" if settings.reads == "nothing" else None
    for _, context, row in listed:
        suffix = len(row["roles"]) - (0 if listed.cross else row["image_stop"])
        found = routes(row["roles"], suffix, cross=listed.cross, reads=reads)
        _, masks = flow_masks([route.name for route in found], FROM_IMAGE, steps)
        tally.example()
        tally.masks(context, masks, components=Routes(found, held))
    return tally.work


def _trace_image(listed: Listed, store: StoreView) -> Work:
    from headflow.execution.runs import CORNER_BLOCK, blocks

    settings = listed.params.image_tokens
    chosen = _top_heads(listed, settings, "image_tokens") if settings.top else None
    # Which tokens go together is searched for where there are many, and each step hangs on the results of those before it.
    searched = any(listed.image_tokens(row) > settings.alone for _, _, row in listed)
    known = not searched and not listed.cross and (chosen is not None or not settings.top)
    tally = _tally("trace_image", listed, store, known)
    rounds = (None,) if not settings.top else (None, chosen)
    for _, context, row in listed:
        tally.example()
        for heads in rounds:
            seen = _seen_image_tokens(tally, context, row, heads, settings) if tally.work.known else (0, 0, 0)
            tokens = min(listed.image_tokens(row), settings.alone)
            forwards, gradients = 2 + settings.count + settings.held_out, settings.corners
            per_record = len(blocks(2)) + len(blocks(settings.count)) + len(blocks(settings.held_out))
            tally.bound(per_record, seen[0], 64, forwards=forwards, share=seen[1] / forwards)
            records = -(-settings.corners // CORNER_BLOCK)
            tally.bound(records, seen[2], CORNER_BLOCK * (1 + tokens), gradients=gradients)
    tally.work.most = searched
    return tally.work


def _seen_image_tokens(tally: Tally, context: str, row: dict, heads: np.ndarray | None, settings: Any) -> tuple[int, int, int]:
    """Records of masks, masks, and records of gradients that the store holds of one example's image tokens, up to the first that it lacks."""
    import torch

    from headflow.components import ImageTokens
    from headflow.execution.runs import run_example, run_gradients
    from headflow.tracing.image_tokens import Effort, Runs, trace
    from headflow.tracing.patches import known_centres

    counted, sloped = [], []
    chosen = None if heads is None else torch.from_numpy(heads)

    def options(groups: np.ndarray, done: list) -> dict:
        keys = torch.zeros(len(groups), len(row["roles"]), dtype=torch.bool)
        keys[:, row["image_start"] : row["image_stop"]] = torch.from_numpy(groups)
        return {"components": ImageTokens(keys, chosen), "done": lambda _, found: done.append(found)}

    runs = Runs(
        lambda groups, masks: run_example(tally._store, context, masks, nothing, **options(groups, counted)),
        lambda groups, corners: run_gradients(tally._store, context, corners, nothing, **options(groups, sloped)),
    )
    effort = Effort(settings.alone, settings.count, settings.corners, settings.held_out, settings.estimand, settings.search, settings.seed)
    with suppress(Missing):
        trace(runs, known_centres(None, row["image_stop"] - row["image_start"]), effort)
    return len(counted), sum(counted), len(sloped)


def _keep_image_tokens(listed: Listed, store: StoreView) -> Work:
    settings = listed.params.keeping
    rows = listed.rows.head(settings.examples)
    tally = _tally("keep_image_tokens", listed, store)
    # Sets that two selections share are run once.
    sets = 2 + len(settings.selections) * len(settings.percents)
    stored = _kept(listed, store, settings) if listed.known else None
    tally.work.known = stored is not None
    for number in range(len(rows)):
        tally.example()
        found = 0 if stored is None else stored[number]
        small = 2 + ("attention" in settings.selections)
        tally.bound(small, min(found, small), listed.image_tokens(rows.row(number, named=True)))
        tally.bound(len(settings.ways), max(0, found - small), 3 * sets, forwards=sets * len(settings.ways))
    tally.work.most = True
    return tally.work


def _kept(listed: Listed, store: StoreView, settings: Any) -> list[int] | None:
    """Records of each example up to the first that the store lacks; None where attributions of image tokens are not there yet."""
    from headflow.analysis import keeping
    from headflow.execution.kept import StoredExample, code_version
    from headflow.models.answering import picture_sizes
    from headflow.models.keeping import best
    from headflow.tables.image_tokens import IMAGE_TOKENS
    from stages import paths

    rows = listed.rows.head(settings.examples)
    try:
        attributions = IMAGE_TOKENS.read(paths.image_tokens_dir(listed.key) / "image_tokens.parquet")
        priors = keeping.position_priors(attributions, rows["id"].to_list(), picture_sizes(rows).to_list(), rows["scene"].to_list())
    except HeadflowError:
        return None
    percents, version, found = [0.0, *settings.percents], code_version(), []
    for (name, context, row), prior in zip(listed, priors, strict=False):
        heard = Heard(store)
        example = StoredExample(heard, context, row, nothing, version)
        try:
            places = example.selectable
            make: dict[str, Callable] = {
                "attribution": lambda places=places, name=name: keeping.attribution_scores(attributions, [name], [places])[0],
                "attention": lambda example=example: example.attention(settings.attention),
                "position": lambda places=places, prior=prior: None if prior is None else prior[: len(places)],
                "random": lambda places=places, name=name: keeping.random_scores([name], [places], seed=settings.seed)[0],
            }
            scores = {kind: made for kind in settings.selections if (made := make[kind]()) is not None}
            plan = keeping.plan({kind: [best(made, places, k) for k in percents] for kind, made in scores.items()}, percents)
            for way in example.ways(settings.ways):
                example.run(way, plan.sets)
        except (Missing, HeadflowError):
            pass
        found.append(len(heard.found))
    return found


def _read_heads(listed: Listed, store: StoreView) -> Work:
    settings = listed.params.reading
    tally = _tally("read_heads", listed, store, known=False)
    most = min(len(listed), settings.examples + settings.typical * listed.params.clusters.max_clusters)
    for number, (_, _, row) in enumerate(listed):
        tally.example()
        if number < most:
            tally.bound(1, 0, (settings.heads + listed.params.clusters.max_clusters) * listed.image_tokens(row), gradients=settings.token_corners)
        tally.bound(0, 0, 0, gradients=settings.head_corners, share=0.0)
    tally.work.examples_left, tally.work.most = len(listed), True
    return tally.work


_COUNTERS: dict[str, Callable[[Listed, StoreView], Work]] = {
    "extract_features": _extract_features, "run_ablations": _run_ablations, "evaluate_faithfulness": _evaluate_faithfulness,
    "compare_baselines": _compare_baselines, "trace_text": _trace_text, "trace_flow": _trace_flow, "trace_image": _trace_image,
    "keep_image_tokens": _keep_image_tokens, "read_heads": _read_heads, "describe_images": described.describe_images,
    "share_attention": described.share_attention, "localise_objects": described.localise_objects,
    "knock_out_attention": described.knock_out_attention, "compress_context": described.compress_context,
}  # fmt: skip
