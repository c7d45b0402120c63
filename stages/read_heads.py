"""What single heads look at, what of the picture they pass on, and which words they write."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.analysis.permutations import Exchange
from headflow.attribution.frames import attribution_grid
from headflow.attribution.masks import sample_corners
from headflow.charts.numbers import interval
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.models.places import boxes_on_picture
from headflow.params import Params, ReadingParams
from headflow.progress import progress
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

_METHOD = "head maps 1"  # of what the store keeps; count up when attribution_maps gives other numbers


def main(params: Params, key: str) -> None:
    """Write maps of heads and of clusters of heads, words, what heads write beside their attribution, and metrics of model ``key``."""
    settings, subjects = params.reading, Subjects(params, key)
    ids, grid = attribution_grid(ATTRIBUTIONS.read(paths.attributions_dir(key) / "attributions.parquet"))
    if sorted(ids) != sorted(subjects.ids):
        raise HeadflowError(f"{paths.attributions_dir(key)}: attributions of other examples than the features of {key!r}; run `dvc repro`")
    heads = top_heads(grid, settings.heads)
    clusters, typical = read_clusters(key, settings.typical)
    if strangers := set(typical["id"]) - set(ids):
        raise HeadflowError(f"{paths.clusters_dir(key)}: example {min(strangers)} was not explained; run `dvc repro`")
    weights = means_over([*([head] for head in heads), *clusters.values()], *grid.shape[1:])
    mapped = {*subjects.ids[: settings.examples], *typical["id"]}
    corners = sample_corners(
        *grid.shape[1:], settings.head_corners, estimand=params.masks.estimand, ablation_probability=params.masks.ablation_probability, seed=settings.seed
    )

    words, reason = Words(heads, settings.words, lambda token: token_text(subjects.model, token)), None
    direct: dict[str, np.ndarray] = {}
    seen: dict[str, Seen] = {}
    with ResultStore(Path(params.ablation.store)) as store, progress(f"read heads ({key})", len(subjects), "examples") as bar:
        # Examples of one answer together, so that the mean over them needs room for one answer at a time.
        for subject in sorted(subjects, key=lambda one: (one.row["target_answer"], one.row["answer_tokens"][0])):
            capture, baseline, target = subject.prepare()
            reason = reason or unreadable(capture)
            if reason is None:
                written = written_logits(capture, heads, baseline=baseline, rows=capture.predicts, batch_size=params.ablation.batch_size)[:, 0].numpy()
                words.add(subject.id, subject.row["target_answer"], subject.row["answer_tokens"][0], subject.row["rival_tokens"], written)
                options = {"baseline": baseline, "target": target, "batch_size": params.ablation.batch_size}
                direct[subject.id] = direct_effects(capture, corners, **options).mean(0, dtype=float)
            if subject.id in mapped:
                seen[subject.id] = look(store, subject, capture, baseline, target, weights, settings, params)
            bar.advance()
    if reason:
        print(f"note: {reason}; the tables of words are left empty", file=sys.stderr)

    top = [(name, seen[name].maps, seen[name].boxes) for name in subjects.ids if name in seen]
    at = {cluster: len(heads) + place for place, cluster in enumerate(clusters)}
    of_clusters = [
        (cluster, rank, name, at[cluster], seen[name].maps, seen[name].boxes) for cluster, rank, name in typical.select("cluster", "rank", "id").iter_rows()
    ]
    exchange = pictures(subjects)
    order = [ids.index(name) for name in subjects.ids]
    all_direct = None if reason else np.stack([direct[name] for name in subjects.ids])
    drawn = {"draws": settings.draws, "confidence": settings.confidence, "seed": settings.seed}
    writing = writing_table(grid[order], all_direct, None if reason else words, exchange, **drawn)

    folder = paths.heads_dir(key)
    maps = head_maps_table(top, heads)
    HEAD_MAPS.write(maps, folder / "head_maps.parquet")
    CLUSTER_MAPS.write(cluster_maps_table(of_clusters), folder / "cluster_maps.parquet")
    HEAD_WORDS.write(words.table(), folder / "head_words.parquet")
    HEAD_WRITING.write(writing, folder / "head_writing.parquet")
    write_json(paths.metrics("read_heads", key), metrics(maps, writing, heads, len(subjects), settings.confidence, reason, seen))


@dataclass(frozen=True)
class Seen:
    """Maps of one example: of the top heads, then of the clusters; and where the tokens lie (NaN = unknown)."""

    maps: Maps
    boxes: Float[np.ndarray, "image 4"]
    unplaced: str | None


def look(
    store: ResultStore, subject: Subject, capture: Capture, baseline: object, target: object, weights: Float[np.ndarray, "groups layers heads"],
    settings: ReadingParams, params: Params,
) -> Seen:  # fmt: skip
    """Maps of one example; the attribution maps, which cost most, are kept in the store."""
    final, text = (averaged(weights, maps) for maps in attention_maps(capture))
    unit = bytes.fromhex(digest(subject.context, _METHOD, str((settings.token_corners, settings.seed, weights.shape)), weights.tobytes()))[:16]
    found = store.get([unit]).get(unit)
    if found is None or found.size != final.size:
        options = {"corners": settings.token_corners, "seed": settings.seed, "batch_size": params.ablation.batch_size}
        found = averaged(weights, attribution_maps(capture, baseline=baseline, target=target, **options)).ravel().astype(np.float32)
        if not np.isfinite(found).all():
            raise HeadflowError(f"example {subject.id}: the attribution of an image token is not a finite number; run this model in float32 or bfloat16")
        store.put([(unit, found)])
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


def token_text(model: LVLM, token: int) -> str:
    """A token as it may stand in a text; a piece of a character by its name in the vocabulary."""
    tokenizer = model.processor.tokenizer
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
