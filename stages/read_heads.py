"""What single heads look at, what of the picture they pass on, and which words they write."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.analysis.permutations import Exchange
from headflow.attribution.frames import attribution_grid
from headflow.attribution.masks import sample_corners
from headflow.charts.numbers import interval
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.fingerprint import record_key
from headflow.execution.records import find_or_make
from headflow.files import write_json
from headflow.models.capture import Capture
from headflow.models.loading import prepared_processor
from headflow.models.places import boxes_on_picture
from headflow.params import Params, ReadingParams
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.clusters import CLUSTER_EXAMPLES, HEAD_CLUSTERS
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS, HEAD_WORDS, HEAD_WRITING
from headflow.tracing.agreement import map_agreement, over_examples
from headflow.tracing.head_maps import Head, Maps, attention_maps, attribution_maps, averaged, cluster_maps_table, head_maps_table, means_over
from headflow.tracing.residual import find_paths
from headflow.tracing.words import FAINT, Words, with_verdict, writing_table
from headflow.tracing.written import direct_effects, written_logits
from stages import paths
from stages.door import enter
from stages.subjects import Subject, Subjects
from stages.workers import at_work

_METHOD = "head maps 1"  # of what the store keeps; count up when attribution_maps gives other numbers


def main(params: Params, key: str) -> None:
    """Write maps of heads and of clusters of heads, words, what heads write beside their attribution, and metrics of model ``key``."""
    settings, subjects = params.reading, Subjects(params, key)
    plan = ReadingPlan(params, key, subjects)
    ids, grid, heads, clusters, typical = plan.ids, plan.grid, plan.heads, plan.clusters, plan.typical
    tokenizer = prepared_processor(paths.model_dir(key)).tokenizer
    words, reason = Words(heads, settings.words, lambda token: token_text(tokenizer, token)), None
    direct: dict[str, np.ndarray] = {}
    seen: dict[str, Seen] = {}
    # Examples of one answer together, so that the mean over them needs room for one answer at a time.
    rows = subjects.rows.to_dicts()
    order = sorted(range(len(rows)), key=lambda place: (rows[place]["target_answer"], rows[place]["answer_tokens"][0]))
    with at_work("stages.read_heads:HeadReader", params, key, "read heads", len(subjects), "examples") as run:
        for place, one in zip(order, run([{"example": place} for place in order]), strict=True):
            row = rows[place]
            reason = reason or one["unreadable"]
            if "written" in one and reason is None:
                words.add(row["id"], row["target_answer"], row["answer_tokens"][0], row["rival_tokens"], one["written"])
                direct[row["id"]] = one["direct"]
            if "boxes" in one:
                seen[row["id"]] = Seen((one["final"], one["text"], one["attribution"]), one["boxes"], one["unplaced"])
    if reason:
        print(f"note: {reason}; the tables of words are left empty", file=sys.stderr)

    top = [(name, seen[name].maps, seen[name].boxes) for name in subjects.ids if name in seen]
    at = {cluster: len(heads) + place for place, cluster in enumerate(clusters)}
    of_clusters = [
        (cluster, rank, name, at[cluster], seen[name].maps, seen[name].boxes) for cluster, rank, name in typical.select("cluster", "rank", "id").iter_rows()
    ]
    exchange = pictures(subjects)
    own = [ids.index(name) for name in subjects.ids]
    all_direct = None if reason else np.stack([direct[name] for name in subjects.ids])
    drawn = {"draws": settings.draws, "confidence": settings.confidence, "seed": settings.seed}
    writing = writing_table(grid[own], all_direct, None if reason else words, exchange, **drawn)

    folder = paths.heads_dir(key)
    maps = head_maps_table(top, heads)
    HEAD_MAPS.write(maps, folder / "head_maps.parquet")
    CLUSTER_MAPS.write(cluster_maps_table(of_clusters), folder / "cluster_maps.parquet")
    HEAD_WORDS.write(words.table(), folder / "head_words.parquet")
    HEAD_WRITING.write(writing, folder / "head_writing.parquet")
    write_json(paths.metrics("read_heads", key), metrics(maps, writing, heads, len(subjects), settings.confidence, reason, seen))


class ReadingPlan:
    """What is read of the heads of a model: driver and workers plan alike.

    Attributes:
        ids, grid: attributions of the examples, in the order of their table.
        heads: those that are looked at one by one.
        clusters: heads of each cluster of heads; ``typical`` has its most typical examples.
        weights: of the heads in each of these groups.
        mapped: examples with maps.
        corners: states of all heads.

    Raises:
        HeadflowError: attributions or clusters of other examples.
    """

    def __init__(self, params: Params, key: str, subjects: Subjects) -> None:
        settings = params.reading
        self.ids, self.grid = attribution_grid(ATTRIBUTIONS.read(paths.attributions_dir(key) / "attributions.parquet"))
        if sorted(self.ids) != sorted(subjects.ids):
            raise HeadflowError(f"{paths.attributions_dir(key)}: attributions of other examples than the features of {key!r}; run `dvc repro`")
        shape = self.grid.shape[1:]
        self.heads = top_heads(self.grid, settings.heads)
        self.clusters, self.typical = read_clusters(key, settings.typical)
        if strangers := set(self.typical["id"]) - set(self.ids):
            raise HeadflowError(f"{paths.clusters_dir(key)}: example {min(strangers)} was not explained; run `dvc repro`")
        self.weights = means_over([*([head] for head in self.heads), *self.clusters.values()], *shape)
        self.mapped = {*subjects.ids[: settings.examples], *self.typical["id"]}
        drawn = {"estimand": params.masks.estimand, "ablation_probability": params.masks.ablation_probability, "seed": settings.seed}
        self.corners = sample_corners(*shape, settings.head_corners, **drawn)


class HeadReader:
    """What a worker does: what the heads of one example write, do by themselves, look at and pass on."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.plan = ReadingPlan(self.params, key, self.subjects)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        subject, batch = self.subjects[unit["example"]], self.params.ablation.batch_size
        capture, baseline, target = subject.prepare()
        result: Result = {"unreadable": unreadable(capture)}
        if result["unreadable"] is None:
            result["written"] = written_logits(capture, self.plan.heads, baseline=baseline, rows=capture.predicts, batch_size=batch)[:, 0].numpy()
            result["direct"] = direct_effects(capture, self.plan.corners, baseline=baseline, target=target, batch_size=batch).mean(0, dtype=float)
        if subject.id in self.plan.mapped:
            seen = look(store, subject, capture, baseline, target, self.plan.weights, self.params.reading, self.params)
            result |= {**dict(zip(("final", "text", "attribution"), map(np.asarray, seen.maps), strict=True)), "boxes": np.asarray(seen.boxes)}
            result["unplaced"] = seen.unplaced
        count(1, 0)
        return result


@dataclass(frozen=True)
class Seen:
    """Maps of one example: of the top heads, then of the clusters; and where the tokens lie (NaN = unknown)."""

    maps: Maps
    boxes: Float[np.ndarray, "image 4"]
    unplaced: str | None


def look(
    store: Records, subject: Subject, capture: Capture, baseline: object, target: object, weights: Float[np.ndarray, "groups layers heads"],
    settings: ReadingParams, params: Params,
) -> Seen:  # fmt: skip
    """Maps of one example; the attribution maps, which cost most, are kept in the store."""
    final, text = (averaged(weights, maps) for maps in attention_maps(capture))

    def make() -> Float[np.ndarray, "groups image"]:
        options = {"corners": settings.token_corners, "seed": settings.seed, "batch_size": params.ablation.batch_size}
        made = averaged(weights, attribution_maps(capture, baseline=baseline, target=target, **options))
        if not np.isfinite(made).all():
            raise HeadflowError(f"example {subject.id}: the attribution of an image token is not a finite number; run this model in float32 or bfloat16")
        return made

    unit = record_key(subject.context, _METHOD, str((settings.token_corners, settings.seed, weights.shape)), weights.tobytes())
    found = find_or_make(store, unit, make, final.size)
    boxes, reason = boxes_on_picture(capture)
    return Seen((final, text, found.reshape(final.shape)), boxes, reason or None)


def top_heads(grid: Float[np.ndarray, "examples layers heads"], most: int) -> list[Head]:
    """The heads of largest mean attribution, largest first; those that carry next to nothing beside the first are left out."""
    mean = grid.mean(0)
    order = np.argsort(-mean, axis=None, kind="stable")[:most]
    heads = [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, mean.shape), strict=True)]
    return [head for head in heads if mean[head] > FAINT * mean.max()] or heads[:1]


def read_clusters(key: str, most: int) -> tuple[dict[int, list[Head]], pl.DataFrame]:
    """Heads of each cluster, and its most typical examples."""
    folder = paths.clusters_dir(key)
    members: dict[int, list[Head]] = {}
    table = HEAD_CLUSTERS.read(folder / "head_clusters.parquet").select("cluster", "layer", "head").sort("cluster", "layer", "head")
    for cluster, layer, head in table.iter_rows():
        if cluster >= 0:
            members.setdefault(cluster, []).append((layer, head))
    typical = CLUSTER_EXAMPLES.read(folder / "cluster_examples.parquet").filter(pl.col("rank") <= most, pl.col("cluster").is_in(list(members)))
    return members, typical.sort("cluster", "rank")


def unreadable(capture: Capture) -> str | None:
    """Why it cannot be told what this model's heads write; None if it can."""
    try:
        find_paths(capture)
    except HeadflowError as error:
        return str(error)
    return None


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it may stand in a text; a piece of a character by its name in the vocabulary."""
    text = tokenizer.decode([token])
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))


def pictures(subjects: Subjects) -> Exchange:
    return Exchange(subjects.rows["scene"].to_list(), subjects.rows["question_kind"].to_list())


def metrics(
    maps: pl.DataFrame, writing: pl.DataFrame, heads: Sequence[Head], examples: int, confidence: float, reason: str | None, seen: dict[str, Seen]
) -> dict:
    """What the tables say in short; null where it cannot be told. Heads go by (layer, head), as in the tables."""
    agreement = map_agreement(maps)
    found = {}
    for name in ("agreement", "agreement_size"):
        mean, low, high = interval(over_examples(agreement, name), confidence)
        found[name] = {key: None if np.isnan(value) else value for key, value in (("mean", mean), ("low", low), ("high", high))}
    top = writing.filter(pl.struct("layer", "head").is_in([{"layer": layer, "head": head} for layer, head in heads]))
    unplaced = sorted({one.unplaced for one in seen.values() if one.unplaced})
    whole = float(top["attribution"].sum())
    return {
        "examples": examples, "examples_with_maps": len(seen), "heads": list(heads),
        "attention_against_attribution": found, "direct_share_of_top_heads": None if reason or not whole else float(top["direct"].sum()) / whole,
        "heads_that_write_the_answer": None if reason else with_verdict(top).filter(pl.col("verdict") == "writes").height,
        "words_unreadable": reason, "places_unknown": unplaced[0] if unplaced else None,
    }  # fmt: skip


if __name__ == "__main__":
    enter(main)
