"""Which text tokens receive the picture: components of one example, and the tables over examples, roles and templates (METHOD, "Tokens")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.attribution.multiple import holm
from headflow.tables.schema import Table
from headflow.tables.text_tokens import TEXT_CONTRASTS, TEXT_FITS, TEXT_ROLES, TEXT_SLOTS, TEXT_TOKENS
from headflow.tracing.bands import Band
from headflow.tracing.intervals import Estimate, mean, ratio, settled
from headflow.tracing.templates import AFTER, Template, apart
from headflow.tracing.text_masks import Plan, Traced

HEADS = ("all", "top")
CONTRASTS = ("after - before", "top - all", "similarity")


def top_heads(attributions: Float[np.ndarray, "examples layers heads"], count: int | None = None, share: float = 0.8) -> Bool[np.ndarray, "layers heads"]:
    """The first heads by mean attribution over examples.

    Args:
        count: how many; None = as few as hold ``share`` of the sum of all mean attributions above 0 (one head where none is).
    """
    means = attributions.mean(0)
    order = np.argsort(-means.ravel(), kind="stable")
    if count is None:
        held = np.cumsum(np.maximum(means.ravel()[order], 0.0))
        count = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1 if held[-1] > 0 else 1
    chosen = np.zeros(means.size, bool)
    chosen[order[:count]] = True
    return chosen.reshape(means.shape)


@dataclass(frozen=True)
class TracedExample:
    """What was found for one example and one set of heads; target units.

    Attributes:
        attribution, error, low, high: of every token in every band of layers, the error and its interval over the draw of masks.
        alone: f(intact) − f(only this token cut).
    """

    id: str
    estimator: str
    masks: int
    corners: int
    held_out_r: float
    held_out_r2: float
    intact: float
    ablated: float
    attribution: Float[np.ndarray, "windows tokens"]
    error: Float[np.ndarray, "windows tokens"]
    low: Float[np.ndarray, "windows tokens"]
    high: Float[np.ndarray, "windows tokens"]
    alone: Float[np.ndarray, "windows tokens"]


def one_by_one(ids: Sequence[str], plan: Plan, traced: Traced, confidence: float) -> list[TracedExample]:
    """A group's fit, example by example."""
    fitted = traced.fitted
    low, high = fitted.interval(confidence)
    return [
        TracedExample(
            name, fitted.estimator_, len(plan.masks), len(plan.corners), float(fitted.held_out_r_[e]), float(fitted.held_out_r2_[e]), float(traced.intact[e]),
            float(traced.ablated[e]), fitted.attribution_[e], fitted.standard_error_[e], low[e], high[e], traced.alone[e],
        )
        for e, name in enumerate(ids)
    ]  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """The tokens after the picture of every example, and what aligns them; all in one order of the examples.

    Attributes:
        pictures: number of each example's picture.
        bands: the bands of layers, in the numbering of gates.
        decoder_layers: the decoder layer behind each of those numbers.
    """

    ids: Sequence[str]
    tokens: Sequence[Sequence[str]]
    roles: Sequence[Sequence[str]]
    templates: Sequence[Template]
    pictures: Int[np.ndarray, "examples"]
    bands: Sequence[Band]
    decoder_layers: Sequence[int]


Found = Mapping[str, Sequence[TracedExample]]
"""For each set of heads ('all', 'top') the examples in the order of the prompts."""


def tokens_table(prompts: Prompts, found: Found) -> pl.DataFrame:
    """Every token of every example, as a TEXT_TOKENS table."""
    frames = []
    for heads, examples in found.items():
        for place, one in enumerate(examples):
            window, token = (index.ravel() for index in np.indices(one.attribution.shape))
            first, last = (np.array([_decoder(prompts, band)[end] for band in prompts.bands])[window] for end in (0, 1))
            columns = {
                "id": [one.id] * len(window), "heads": [heads] * len(window), "window": window, "first_layer": first, "last_layer": last, "token": token,
                "text": [prompts.tokens[place][t] for t in token], "role": [prompts.roles[place][t] for t in token],
                "attribution": one.attribution.ravel(), "standard_error": one.error.ravel(), "low": one.low.ravel(), "high": one.high.ravel(),
                "alone": one.alone.ravel(),
            }  # fmt: skip
            frames.append(pl.DataFrame(columns, schema=_schema(TEXT_TOKENS)))
    return pl.concat(frames).with_columns(pl.col(pl.Float64).fill_nan(None))


def fits_table(found: Found) -> pl.DataFrame:
    """The quality of each example's fit, as a TEXT_FITS table."""
    rows = [
        {
            "id": one.id, "heads": heads, "components": one.attribution.size, "estimator": one.estimator, "masks": one.masks, "corners": one.corners,
            "held_out_r": one.held_out_r, "held_out_r2": one.held_out_r2, "intact": one.intact, "ablated": one.ablated,
        }
        for heads, examples in found.items()
        for one in examples
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_schema(TEXT_FITS)).with_columns(pl.col("held_out_r", "held_out_r2").fill_nan(None))


def roles_table(prompts: Prompts, found: Found, confidence: float) -> pl.DataFrame:
    """Attributions summed over the tokens of each role, as a TEXT_ROLES table."""
    present = [role for role in ("system", "image", "question", *AFTER) if any(role in mine for mine in prompts.roles)]
    members = {role: {role} for role in present} | {"before": set(present) - set(AFTER), "after": set(AFTER), "all": set(present)}
    rows = []
    for heads, examples in found.items():
        totals = _totals(examples)
        for role, which in members.items():
            inside = [np.array([one in which for one in mine]) for mine in prompts.roles]
            counts = np.array([chosen.sum() for chosen in inside])
            sums = np.stack([_with_sum(one.attribution[:, chosen].sum(1)) for one, chosen in zip(examples, inside, strict=True)])
            sums[counts == 0] = np.nan
            for template, mine in apart(prompts.templates, prompts.pictures):
                having = mine[counts[mine] > 0]
                if not len(having):
                    continue
                centre, share = _estimates(sums[mine], totals[mine], prompts.pictures[mine], confidence)
                for column, window in enumerate(_windows(sums)):
                    rows.append(
                        {"template": template, "heads": heads, "window": window, "role": role, "tokens": counts[having].mean()}
                        | _columns(centre, share, column) | {"examples": len(having), "pictures": len(set(prompts.pictures[having].tolist()))}
                    )  # fmt: skip
    return _table(rows, TEXT_ROLES)


def slots_table(prompts: Prompts, found: Found, confidence: float) -> pl.DataFrame:
    """Mean attribution at every place of every template, as a TEXT_SLOTS table."""
    rows = []
    for heads, examples in found.items():
        attributions, alone = [one.attribution for one in examples], [one.alone for one in examples]
        for template in prompts.templates:
            mine = list(template.members)
            values, singles = (np.moveaxis(_with_sum(np.moveaxis(template.gather(part), 1, -1)), -1, 1) for part in (attributions, alone))
            centre, share = _estimates(values, _totals(examples)[mine], prompts.pictures[mine], confidence)
            for column, window in enumerate(_windows(values[:, :, 0])):
                corrected = holm(centre.p[column].tolist())
                for slot, place in enumerate(template.slots):
                    known = np.isfinite(values[:, column, slot])
                    rows.append(
                        {"heads": heads, "window": window, "template": template.name, "slot": slot, "role": place.role, "text": place.text}
                        | _columns(centre, share, (column, slot)) | {"p_holm": corrected[slot], "examples": int(known.sum())}
                        | {"size": np.abs(values[known, column, slot]).mean(), "alone": singles[known, column, slot].mean()}
                    )  # fmt: skip
    return _table(rows, TEXT_SLOTS)


def contrasts_table(prompts: Prompts, found: Found, confidence: float) -> pl.DataFrame:
    """After the question against before its end, and the top heads against all, as a TEXT_CONTRASTS table."""
    after = [np.array([one in AFTER for one in mine]) for mine in prompts.roles]

    def sums(heads: str, sign: float) -> Float[np.ndarray, "examples"]:
        """Attribution after the question, plus ``sign`` times that before its end."""
        return np.array([one.attribution.sum(0) @ np.where(chosen, 1.0, sign) for one, chosen in zip(found[heads], after, strict=True)])

    totals = {heads: _totals(found[heads]) for heads in found}
    alike = np.array([_cosine(one.attribution.sum(0), other.attribution.sum(0)) for one, other in zip(found["top"], found["all"], strict=True)])
    rows = []
    for template, mine in apart(prompts.templates, prompts.pictures):
        pictures = prompts.pictures[mine]
        pairs = [(sums(heads, 0.0)[mine], totals[heads][mine]) for heads in ("top", "all")]
        similarity = mean(alike[mine], pictures, confidence)
        rows += [
            (template, "after - before", *_numbers(ratio(sums("all", -1.0)[mine], totals["all"][mine], pictures, confidence))),
            (template, "top - all", *_numbers(_difference_of_ratios(*pairs, pictures, confidence))),
            (template, "similarity", float(similarity.value), float(similarity.low), min(1.0, float(similarity.high)), np.nan),
        ]
    frame = pl.DataFrame(rows, schema=_schema(TEXT_CONTRASTS), orient="row")
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _difference_of_ratios(one: tuple, other: tuple, pictures: np.ndarray, confidence: float) -> Estimate:
    """Mean over mean, of one pair minus of the other, over the same examples: both linearised (the delta method)."""
    (x, a), (y, b) = one, other
    first, second = ratio(x, a, pictures, confidence), ratio(y, b, pictures, confidence)
    rest = (x - first.value * a) / a.mean() - (y - second.value * b) / b.mean()
    gap = first.value - second.value
    around = mean(rest + gap, pictures, confidence)
    return Estimate(np.asarray(gap), around.low, around.high, around.p)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size > 0 else np.nan


def _totals(examples: Sequence[TracedExample]) -> Float[np.ndarray, "examples"]:
    return np.array([one.intact - one.ablated for one in examples])


def _with_sum(values: Float[np.ndarray, "*rest windows"]) -> Float[np.ndarray, "*rest columns"]:
    """The bands, then their sum; the sum alone where there is one band."""
    total = values.sum(-1, keepdims=True)
    return total if values.shape[-1] == 1 else np.concatenate([values, total], -1)


def _windows(columns: Float[np.ndarray, "examples columns"]) -> list[int | None]:
    return [*range(columns.shape[1] - 1), None]


def _estimates(values: np.ndarray, totals: np.ndarray, pictures: np.ndarray, confidence: float) -> tuple[Estimate, Estimate]:
    centre, share = mean(values, pictures, confidence), ratio(values, totals, pictures, confidence)
    return Estimate(centre.value, centre.low, centre.high, settled(centre.p, centre.value, float(totals.mean()))), share


def _columns(centre: Estimate, share: Estimate, place: object) -> dict[str, float]:
    named = {"mean": centre.value, "low": centre.low, "high": centre.high, "p": centre.p}
    named |= {"share": share.value, "share_low": share.low, "share_high": share.high}
    return {name: float(part[place]) for name, part in named.items()}


def _numbers(found: Estimate) -> tuple[float, float, float, float]:
    return float(found.value), float(found.low), float(found.high), float(found.p)


def _decoder(prompts: Prompts, band: Band) -> tuple[int, int]:
    """First and last decoder layer of a band."""
    return prompts.decoder_layers[band[0]], prompts.decoder_layers[band[1] - 1]


def _table(rows: list[dict], table: Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=_schema(table)).with_columns(pl.col(pl.Float64).fill_nan(None))


def _schema(table: Table) -> dict[str, pl.DataType | type[pl.DataType]]:
    return {name: column.dtype for name, column in table.columns.items()}
