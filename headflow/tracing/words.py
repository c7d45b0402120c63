"""Which words heads write, and how much of a head's attribution is what it writes itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.analysis.permutations import Exchange
from headflow.attribution.groups import mean_interval
from headflow.attribution.multiple import holm
from headflow.seeds import generator
from headflow.tables.heads import HEAD_WORDS, HEAD_WRITING
from headflow.tables.schema import Table

Head = tuple[int, int]
FAINT = 0.01
"""Attributions below this share of the largest are as good as none: nothing is divided by them."""


@dataclass
class Words:
    """Gathers what some heads write, example by example; those of one answer must come one after another.

    Attributes:
        heads: (layer, head).
        most: words listed for each head.
        text: the text of a token id.
        lead, first, chance, first_of_all: of each example, how far a head raises the answer's word beyond the mean of the rivals' words (logits, nan without
            rivals), whether it raises it most among these and among all words, and by which chance a random one of these would be the answer's.
    """

    heads: Sequence[Head]
    most: int
    text: Callable[[int], str]
    lead: list[Float[np.ndarray, " heads"]] = field(default_factory=list)
    first: list[Float[np.ndarray, " heads"]] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    first_of_all: list[Float[np.ndarray, " heads"]] = field(default_factory=list)

    _rows: list[dict] = field(default_factory=list)
    _sum: Float[np.ndarray, "heads vocabulary"] | None = None
    _count: int = 0
    _answer: tuple[str, int] | None = None

    def add(self, name: str, answer: str, token: int, rivals: Sequence[int], written: Float[np.ndarray, "heads vocabulary"]) -> None:
        """Take in one example: its id, its answer and that one's first token, first tokens of other answers, and what each head writes."""
        written = written - written.mean(1, keepdims=True)
        if self._answer != (answer, token):
            self._close()
            self._answer = (answer, token)
        self._sum = written.astype(float) if self._sum is None else self._sum + written
        self._count += 1
        self._list(name, written, 1)
        others = written[:, [rival for rival in rivals if rival != token]]
        mine, known = written[:, token], others.shape[1] > 0
        self.lead.append(mine - others.mean(1) if known else np.full(len(mine), np.nan))
        self.first.append((mine > others.max(1)).astype(float) if known else np.full(len(mine), np.nan))
        self.chance.append(1 / (1 + others.shape[1]) if known else np.nan)
        self.first_of_all.append((written.argmax(1) == token).astype(float))

    def table(self) -> pl.DataFrame:
        """A HEAD_WORDS table: every example's words, and after them the means over the examples of each answer."""
        self._close()
        schema = _schema(HEAD_WORDS)
        return pl.DataFrame(self._rows, schema=schema).sort(pl.col("id").is_null(), maintain_order=True)

    def _close(self) -> None:
        if self._sum is not None:
            self._list(None, self._sum / self._count, self._count)
        self._sum, self._count, self._answer = None, 0, None

    def _list(self, name: str | None, written: np.ndarray, examples: int) -> None:
        answer, first = self._answer
        most = min(self.most, written.shape[1])
        top = np.argpartition(-written, most - 1, axis=1)[:, :most]
        for (layer, head), values, words in zip(self.heads, written, top, strict=True):
            for rank, word in enumerate(sorted(words.tolist(), key=lambda one: (-values[one], one)), 1):
                self._rows.append({
                    "id": name, "answer": answer, "examples": examples, "layer": layer, "head": head, "rank": rank, "word": self.text(word), "token": word,
                    "contribution": float(values[word]), "answers": word == first,
                })  # fmt: skip


def writing_table(
    attributions: Float[np.ndarray, "examples layers heads"], direct: Float[np.ndarray, "examples layers heads"] | None, words: Words | None,
    exchange: Exchange, *, draws: int = 499, confidence: float = 0.95, seed: int = 0,
) -> pl.DataFrame:  # fmt: skip
    """What heads add to the target altogether and by themselves, mean over examples: a HEAD_WRITING table.

    The share is a ratio of means; its interval comes from bootstrap draws of whole pictures, in which numerator and denominator move together.

    Args:
        attributions: of the examples that ``direct`` and ``words`` are of, in any order for ``words``.
        direct: None where it cannot be told.
        words: what the top heads write; None where it cannot be told.
        exchange: which examples are of one picture.
    """
    from scipy.stats import t

    layers, heads = attributions.shape[1:]
    layer, head = (index.ravel() for index in np.indices((layers, heads)))
    columns: dict[str, object] = {"layer": layer, "head": head, "examples": np.full(layers * heads, len(attributions))}
    intervals = {"attribution": mean_interval(attributions, confidence)}
    unknown = np.full((layers, heads), np.nan)
    intervals["direct"] = (unknown, unknown, unknown) if direct is None else mean_interval(direct, confidence)
    intervals["share"] = (unknown, unknown, unknown)
    if direct is not None:
        size = np.abs(intervals["attribution"][0])
        told = ((intervals["attribution"][1] > 0) | (intervals["attribution"][2] < 0)) & (size > FAINT * size.max())
        times = exchange.resample(generator(seed, "share bootstrap"), draws).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.einsum("de,elh->dlh", times, direct) / np.einsum("de,elh->dlh", times, attributions)
            ratio = direct.sum(0) / attributions.sum(0)
        low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        intervals["share"] = tuple(np.where(told, values, np.nan) for values in (ratio, low, high))
    for name, (middle, low, high) in intervals.items():
        columns |= {name: middle.ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
    columns |= {name: unknown.ravel().copy() for name in ("lead", "lead_low", "lead_high", "lead_p", "first", "first_chance", "first_of_all")}
    if words is not None and words.lead:
        places = [one * heads + other for one, other in words.heads]
        lead, first = np.stack(words.lead).astype(float), np.stack(words.first)
        known = np.isfinite(lead[:, 0])
        if known.any():
            for name, values in zip(("lead", "lead_low", "lead_high"), mean_interval(lead[known], confidence), strict=True):
                columns[name][places] = values
            columns["first"][places], columns["first_chance"][places] = first[known].mean(0), np.array(words.chance)[known].mean()
        if (count := int(known.sum())) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                size = np.abs(lead[known].mean(0)) / (lead[known].std(0, ddof=1) / np.sqrt(count))
            columns["lead_p"][places] = 2 * t.sf(np.nan_to_num(size, posinf=np.inf), count - 1)  # 0 that never varies is no lead
        columns["first_of_all"][places] = np.stack(words.first_of_all).mean(0)
    frame = pl.DataFrame(columns).select(pl.col(name).cast(dtype) for name, dtype in _schema(HEAD_WRITING).items())
    return frame.fill_nan(None)


def with_verdict(writing: pl.DataFrame, alpha: float = 0.05) -> pl.DataFrame:
    """The top heads of a HEAD_WRITING table, with ``verdict``: ``writes`` the answer's word, writes ``against`` it, or ``open``.

    Holm-corrected over these heads; leads that are next to nothing beside the largest attribution are open.
    """
    rows = writing.drop_nulls(["lead", "lead_p"]).sort("attribution", descending=True)
    clear = (pl.Series(holm(rows["lead_p"].to_list()), dtype=pl.Float64) < alpha) & (rows["lead"].abs() > FAINT * (rows["attribution"].abs().max() or 0.0))
    verdict = pl.when(~clear).then(pl.lit("open")).when(rows["lead"] > 0).then(pl.lit("writes")).otherwise(pl.lit("against"))
    return rows.with_columns(verdict=verdict)


def _schema(table: Table) -> dict:
    return {name: column.dtype for name, column in table.columns.items()}
