"""Which image tokens give the picture to the text: cut it off from them, many at a time, with all heads and with the top heads alone."""

import sys
from dataclasses import fields
from functools import cache

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool

from headflow.attribution.regression import Attribution
from headflow.components import ImageTokens
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.runs import run_example, run_gradients
from headflow.files import write_csv, write_json
from headflow.models.places import boxes_on_picture
from headflow.params import Params
from headflow.tables.examples import EXAMPLES
from headflow.tables.image_tokens import IMAGE_BACKGROUND, IMAGE_CURVES, IMAGE_FITS, IMAGE_SHARE_MEANS, IMAGE_SHARES, IMAGE_SPARSITY, IMAGE_TOKENS
from headflow.tracing import image_tables as tables
from headflow.tracing.head_maps import attention_maps
from headflow.tracing.image_tokens import Effort, Groups, Round, Runs, Traced, trace
from headflow.tracing.intervals import mean, numbered
from headflow.tracing.patches import known_centres
from stages import paths
from stages.carriers import read_top_heads
from stages.door import enter
from stages.subjects import Subject, Subjects
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write attributions of image tokens, their fits, where on the pictures they lie, how few hold them, and metrics of model ``key``."""
    settings, subjects = params.image_tokens, Subjects(params, key)
    if not len(subjects):
        raise HeadflowError(f"{key}: no example is to be explained; the model may answer none correctly (set features.only_correct to false to see)")
    chosen = top_heads_of(params, key, subjects)
    shown = dict(EXAMPLES.read(paths.EXAMPLES).select("id", "objects").iter_rows())
    numbers = numbered(subjects.rows["scene"].to_list())
    # What the search leaves over may be a few masks more or less.
    work = len(subjects) * (2 + settings.count + settings.held_out + settings.corners) * (1 if chosen is None else 2)
    with at_work("stages.trace_image:ImageRuns", params, key, "image tokens", work, "masks") as run:
        results = list(run([{"example": place} for place in range(len(subjects))]))
    found, unplaced = [], {one["unplaced"] for one in results} - {""}
    for name, picture, one in zip(subjects.ids, numbers, results, strict=True):
        traced, top = as_traced(one, "all"), None if chosen is None else as_traced(one, "top")
        found.append(tables.PicturedExample(name, int(picture), traced, top, one["attention"], one["boxes"], tables.objects_of(shown[name])))
    if unplaced:
        print(f"note: where image tokens lie on the picture is not known: {min(unplaced)}; maps and shares are left out", file=sys.stderr)

    folder, confidence = paths.image_tokens_dir(key), settings.confidence
    fits, shares = tables.fits_table(found), tables.shares_table(found)
    sparse, background = tables.sparsity_table(found), tables.background_table(found, confidence)
    pictures = {one.id: one.picture for one in found}
    means = tables.share_means_table(shares, pictures, confidence)
    curves = tables.curves_table(found, confidence)
    IMAGE_TOKENS.write(tables.tokens_table(found, confidence), folder / "image_tokens.parquet")
    IMAGE_FITS.write(fits, folder / "fits.parquet")
    IMAGE_SHARES.write(shares, folder / "shares.parquet")
    IMAGE_SHARE_MEANS.write(means, folder / "share_means.parquet")
    IMAGE_SPARSITY.write(sparse, folder / "sparsity.parquet")
    IMAGE_CURVES.write(curves, folder / "curves.parquet")
    IMAGE_BACKGROUND.write(background, folder / "background.parquet")
    write_csv(curves.pivot("what", index="percent", values="held", maintain_order=True), paths.plot("image_tokens", key))
    write_json(
        paths.metrics("trace_image", key),
        {
            "examples": len(found),
            "pictures": len(set(pictures.values())),
            "most_tokens": max(len(one.boxes) for one in found),
            "most_components": int(fits["components"].max()),
            "top_heads": None if chosen is None else int(chosen.sum()),
            "mean_forwards": fits.group_by("id").agg(pl.col("forwards").sum())["forwards"].mean(),
            "fits": {heads: fit_metrics(fits.filter(heads=heads)) for heads in fits["heads"].unique(maintain_order=True)},
            "patches_checked": int(fits["patches_checked"].sum()),
            "patches_agreeing": int(fits["patches_agreeing"].sum()),
            "shares": share_metrics(means),
            "examples_with_objects": shares["id"].n_unique(),
            "sparsity": sparsity_metrics(sparse, pictures, confidence),
            "background_tokens": tables.background_tested(found),
            "background_tokens_that_matter": background.filter(pl.col("q") < 1 - confidence).height,
            "places_unknown": min(unplaced, default=None),
        },
    )  # fmt: skip


def top_heads_of(params: Params, key: str, subjects: Subjects) -> Bool[np.ndarray, "layers heads"] | None:
    """The heads that are looked at alone; None if none are."""
    settings = params.image_tokens
    return read_top_heads(key, subjects.ids, settings.top_heads, settings.top_share, group="image_tokens") if settings.top else None


class ImageRuns:
    """What a worker does: the search for patches, masked runs and fits of one example."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.chosen = top_heads_of(self.params, key, self.subjects)
        settings = self.params.image_tokens
        self.effort = Effort(settings.alone, settings.count, settings.corners, settings.held_out, settings.estimand, settings.search, settings.seed)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        subject = self.subjects[unit["example"]]
        prepare = cache(subject.prepare)
        capture = prepare()[0]
        boxes, reason = boxes_on_picture(capture)
        centres = known_centres(boxes, len(boxes))
        try:
            traced = trace(runs(store, subject, prepare, None, self.params, count), centres, self.effort)
            found = as_result(traced, "all")
            if self.chosen is not None:
                found |= as_result(trace(runs(store, subject, prepare, self.chosen, self.params, count), centres, self.effort, traced.partition), "top")
        except HeadflowError as error:
            raise HeadflowError(f"example {subject.id}: {error}") from error
        attention = np.asarray(attention_maps(capture)[0].mean((0, 1), dtype=float))
        return {**found, "boxes": np.asarray(boxes), "unplaced": reason, "attention": attention}


def as_result(traced: Traced, name: str) -> Result:
    """What was found for one example, flat: values and arrays under names that begin with ``name``."""
    parts = {"": traced, "fitted ": traced.fitted, **{f"round {number} ": one for number, one in enumerate(traced.rounds)}}
    return {
        f"{name} {part}{field.name}": getattr(of, field.name) for part, of in parts.items() for field in fields(of) if field.name not in ("fitted", "rounds")
    } | {f"{name} rounds": len(traced.rounds)}  # fmt: skip


def as_traced(result: Result, name: str) -> Traced:
    """The inverse of :func:`as_result`."""

    def part(kind: type, of: str) -> dict:
        return {field.name: result[f"{name} {of}{field.name}"] for field in fields(kind) if field.name not in ("fitted", "rounds")}

    rounds = [Round(**{**found, "spent": tuple(found["spent"])}) for found in (part(Round, f"round {number} ") for number in range(result[f"{name} rounds"]))]
    return Traced(**part(Traced, ""), fitted=Attribution(**part(Attribution, "fitted ")), rounds=rounds)


def runs(store: Records, subject: Subject, prepare, chosen: Bool[np.ndarray, "layers heads"] | None, params: Params, count: Count) -> Runs:
    """How groups of one example's image tokens are cut, with the chosen heads alone or with all."""
    image, positions = (capture := prepare()[0]).key_image, capture.key_positions
    heads = None if chosen is None else torch.from_numpy(chosen)

    def options(groups: Groups) -> dict:
        keys = torch.zeros(len(groups), positions, dtype=torch.bool)
        keys[:, image] = torch.from_numpy(groups)
        return {"components": ImageTokens(keys, heads), "batch_size": params.ablation.batch_size, "done": count}

    return Runs(
        lambda groups, masks: run_example(store, subject.context, masks, prepare, **options(groups)),
        lambda groups, corners: run_gradients(store, subject.context, corners, prepare, **options(groups)),
    )


def fit_metrics(fits: pl.DataFrame) -> dict[str, float | None]:
    """How far the fits with one set of heads can be trusted."""
    r = fits["held_out_r"].drop_nulls()
    return {
        "mean_held_out_r": r.mean(), "min_held_out_r": r.min(), "mean_relative_error": fits["relative_error"].drop_nulls().mean(),
        "mean_total_effect": float((fits["intact"] - fits["ablated"]).mean()), "mean_sum_of_attributions": fits["sum"].mean(),
    }  # fmt: skip


def share_metrics(means: pl.DataFrame) -> dict:
    """Mean shares and how far they lie above what all tokens alike would give: what → part."""
    found: dict = {}
    for row in means.iter_rows(named=True):
        found.setdefault(row["what"], {})[row["part"]] = {name: row[name] for name in ("mean", "low", "high", "over", "p_holm")}
    return found


def sparsity_metrics(sparse: pl.DataFrame, pictures: dict[str, int], confidence: float) -> dict[str, dict[str, float | None]]:
    """Mean number of tokens that hold most, with its interval over pictures."""
    found = {}
    for what in sparse["what"].unique(maintain_order=True):
        mine = sparse.filter(what=what)
        values = mine.select(pl.col("tokens", "share").cast(pl.Float64).fill_null(np.nan)).to_numpy()
        over = mean(values, np.array([pictures[name] for name in mine["id"]]), confidence)
        numbers = zip(("mean", "low", "high"), (over.value, over.low, over.high), strict=True)
        found[what] = {f"{measure}{end}": _number(value[place]) for end, value in numbers for place, measure in enumerate(("tokens_", "share_"))}
    return found


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


if __name__ == "__main__":
    enter(main)
