"""Which tokens of the text receive the picture: cut tokens off from it, many at a time, with all heads and with the top heads alone."""

from functools import cache

import numpy as np
import polars as pl

from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.runs import run_example, run_gradients
from headflow.files import write_csv, write_json
from headflow.params import Params
from headflow.tables.text_tokens import TEXT_CONTRASTS, TEXT_FITS, TEXT_ROLES, TEXT_SLOTS, TEXT_TOKENS
from headflow.tracing import text_tokens as tracing
from headflow.tracing.bands import side_by_side
from headflow.tracing.components import single_tokens
from headflow.tracing.intervals import numbered
from headflow.tracing.templates import suffixes, templates
from headflow.tracing.text_masks import attribute, plan
from stages import paths
from stages.carriers import read_top_heads
from stages.door import enter
from stages.subjects import Subjects
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write attributions of text tokens, their fits, and their means over examples by role and template, of model ``key``."""
    settings, subjects = params.text_tokens, Subjects(params, key)
    if not len(subjects):
        raise HeadflowError(f"{key}: no example is to be explained; the model may answer none correctly (set features.only_correct to false to see)")
    prepared, plan = subjects.prepared, TextPlan(params, key, subjects)
    bands, chosen, tokens, roles, plans = plan.bands, plan.chosen, plan.tokens, plan.roles, plan.plans
    work = len(tracing.HEADS) * sum(len(one.masks) + len(one.corners) for one in plans)
    with at_work("stages.trace_text:TextRuns", params, key, "text tokens", work, "masks") as run:
        measured = list(run([{"example": place} for place in range(len(subjects))]))
    targets = {heads: [one[f"targets {heads}"] for one in measured] for heads in tracing.HEADS}
    slopes = {heads: [one.get(f"gradients {heads}") for one in measured] for heads in tracing.HEADS}

    pictures = numbered(subjects.rows["scene"].to_list())
    named = templates(subjects.rows["question"].to_list(), subjects.rows["question_kind"].to_list(), pictures.tolist(), tokens, roles)
    prompts = tracing.Prompts(subjects.ids, tokens, roles, named, pictures, bands, prepared.image_layers or range(prepared.layers))
    found = {heads: solve(subjects.ids, plans, targets[heads], slopes[heads], settings.confidence, settings.seed) for heads in tracing.HEADS}
    tables = {
        "text_tokens": (TEXT_TOKENS, tracing.tokens_table(prompts, found)),
        "text_fits": (TEXT_FITS, tracing.fits_table(found)),
        "text_roles": (TEXT_ROLES, tracing.roles_table(prompts, found, settings.confidence)),
        "text_slots": (TEXT_SLOTS, tracing.slots_table(prompts, found, settings.confidence)),
        "text_contrasts": (TEXT_CONTRASTS, tracing.contrasts_table(prompts, found, settings.confidence)),
    }
    folder = paths.text_tokens_dir(key)
    for name, (table, frame) in tables.items():
        table.write(frame, folder / f"{name}.parquet")
    by_role = tables["text_roles"][1].filter(pl.col("template").is_null(), pl.col("window").is_null(), ~pl.col("role").is_in(["before", "after", "all"]))
    write_csv(by_role.pivot("heads", index="role", values="share", maintain_order=True), paths.plot("text_roles", key))
    write_json(paths.metrics("trace_text", key), metrics(tables, len(subjects), chosen, bands, plans))


class TextPlan:
    """Which tokens are cut off in which bands of layers, example by example.

    Attributes:
        chosen: the top heads.
        tokens, roles: of each example's text after the picture.
        plans: masks of each example.
    """

    def __init__(self, params: Params, key: str, subjects: Subjects) -> None:
        settings, prepared = params.text_tokens, subjects.prepared
        self.bands = side_by_side(prepared.layers, settings.windows)
        self.chosen = read_top_heads(key, subjects.ids, settings.top_heads, settings.top_share, group="text_tokens")
        self.tokens, self.roles = suffixes(subjects.rows, cross=prepared.image_layers is not None)
        drawn = {"count": settings.count, "corners": settings.corners, "held_out": settings.held_out, "seed": settings.seed}
        self.plans = [plan(len(self.bands), len(mine), **drawn) for mine in self.tokens]


class TextRuns:
    """What a worker does: the masked runs of one example, with all heads and with the top heads alone, and their gradients."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.plan = TextPlan(self.params, key, self.subjects)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        place, found = unit["example"], {}
        subject, mine, one = self.subjects[place], self.plan.tokens[place], self.plan.plans[place]
        prepare = cache(subject.prepare)
        for heads in tracing.HEADS:
            components = single_tokens(len(mine), self.plan.bands, self.subjects.prepared.layers, self.plan.chosen if heads == "top" else None)
            options = {"components": components, "batch_size": self.params.ablation.batch_size, "done": count}
            found[f"targets {heads}"] = run_example(store, subject.context, one.masks, prepare, starts=one.starts, **options)
            if len(one.corners):
                found[f"gradients {heads}"] = run_gradients(store, subject.context, one.corners, prepare, **options)[1]
        return found


def solve(ids: list[str], plans: list, targets: list, slopes: list, confidence: float, seed: int) -> list[tracing.TracedExample]:
    """Fit every example, those with one number of tokens together."""
    found: list = [None] * len(ids)
    for one in dict.fromkeys(map(id, plans)):
        mine = [example for example, its in enumerate(plans) if id(its) == one]
        shared, names = plans[mine[0]], [ids[example] for example in mine]
        gradients = np.stack([slopes[example] for example in mine]) if len(shared.corners) else None
        traced = attribute(shared, np.stack([targets[example] for example in mine]), gradients, names=names, seed=seed)
        for example, result in zip(mine, tracing.one_by_one(names, shared, traced, confidence), strict=True):
            found[example] = result
    return found


def metrics(tables: dict, examples: int, chosen: np.ndarray, bands: list, plans: list) -> dict:
    """The main numbers; null where one is unknown."""
    fits, by_role, contrasts = (tables[name][1] for name in ("text_fits", "text_roles", "text_contrasts"))
    whole, contrasts = by_role.filter(pl.col("template").is_null(), pl.col("window").is_null()), contrasts.filter(pl.col("template").is_null())
    numbers = ("share", "share_low", "share_high", "mean")
    shares = {heads: {row["role"]: {part: row[part] for part in numbers} for row in whole.filter(heads=heads).to_dicts()} for heads in tracing.HEADS}
    r = {heads: fits.filter(heads=heads)["held_out_r"].drop_nulls() for heads in tracing.HEADS}
    return {
        "examples": examples,
        "pictures": int(whole["pictures"].max()),
        "templates": tables["text_slots"][1]["template"].n_unique(),
        "windows": len(bands),
        "most_tokens": max(one.masks.shape[2] for one in plans),
        "top_heads": int(chosen.sum()),
        "masked_forwards": int(fits["masks"].sum()),
        "gradients": int(fits["corners"].sum()),
        "exhaustive_examples": int((fits.filter(heads="all")["estimator"] == "exhaustive").sum()),
        "mean_held_out_r": {heads: values.mean() for heads, values in r.items()},
        "min_held_out_r": {heads: values.min() for heads, values in r.items()},
        "roles": shares,
        "contrasts": {row["contrast"]: {part: row[part] for part in ("value", "low", "high", "p")} for row in contrasts.iter_rows(named=True)},
    }


if __name__ == "__main__":
    enter(main)
