"""What meaning explains beyond looks, and looks beyond meaning: partial shares of the variance of attribution vectors.

With the vectors' directions as responses and labels as factors, the explained share is the R² of a multivariate linear model, and the unique share of a
label is what R² gains when the label joins those of the other kind (distance-based redundancy analysis: B. H. McArdle and M. J. Anderson, *Fitting
multivariate models to community data*, Ecology 82, 2001; on cosine distances it is exactly this linear model). Its p-value permutes the residuals of
the model without the label (D. Freedman and D. Lane, J. Bus. Econ. Stat. 1, 1983), whole pictures at a time, and compares pseudo-F.
"""

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.analysis.permutations import Exchange
from headflow.analysis.separation import repeated_values
from headflow.seeds import generator
from headflow.tables.interactions import UNIQUE_EFFECTS

KINDS = ("meaning", "looks")
_CELLS = 8_000_000  # numbers held at once for a block of permutations: 64 MB
_RARE = "\0rare"  # what is left of a held-constant label where a value occurs once


def unique_effects(
    vectors: Float[np.ndarray, "examples size"], labels: pl.DataFrame, exchange: Exchange, *, permutations: int = 999, seed: int = 0
) -> pl.DataFrame:
    """Share of variance of each label, and of all labels of a kind, alone and given the labels of the other kind: a UNIQUE_EFFECTS table.

    A row uses the examples in which every tested label has a value that occurs in at least two pictures; a label is left out if that is fewer than half of
    the examples or a single value. Values of the labels held constant that occur only once are taken as one. p = (b + 1) / (n + 1).

    Args:
        vectors: one attribution vector for each example; their lengths do not count.
        labels: label columns only, ``meaning_…`` and ``looks_…``; null where an example has no value.
        exchange: which examples are of one picture.
    """
    usable = {name: repeated_values(labels[name], exchange.picture) for name in labels.columns}
    usable = {name: codes for name, codes in usable.items() if (codes >= 0).sum() * 2 >= len(codes) and len(np.unique(codes[codes >= 0])) > 1}
    by_kind = {kind: [name for name in usable if name.startswith(f"{kind}_")] for kind in KINDS}
    tested = [(kind, kind, names) for kind, names in by_kind.items() if names]
    tested += [(name, kind, [name]) for kind, names in by_kind.items() for name in names]
    rows = []
    for label, kind, names in tested:
        other = KINDS[1 - KINDS.index(kind)]
        used = np.all([usable[name] >= 0 for name in names], axis=0)
        used &= np.all([labels[name].is_not_null().to_numpy() for name in by_kind[other]], axis=0) if by_kind[other] else True
        if used.sum() < 3:
            continue
        own = np.concatenate([_dummies(usable[name][used]) for name in names], axis=1)
        held = [_dummies(_pooled(labels[name].filter(used))) for name in by_kind[other]]
        part = exchange.part(used)
        random = generator(seed, f"unique effects {label}")
        found = _shares(_directions(vectors[used]), own, np.concatenate([np.empty((used.sum(), 0)), *held], axis=1), part, random, permutations)
        rows.append({"label": label, "kind": kind, "given": other if held else None, "examples": int(used.sum()), "pictures": part.pictures} | found)
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in UNIQUE_EFFECTS.columns.items()})


def _shares(directions, own, held, exchange: Exchange, random: np.random.Generator, permutations: int) -> dict[str, float | int | None]:
    """The numbers of one row: explained alone, and unique beyond ``held``."""
    draws = exchange.draw(random, permutations)
    one = np.ones((len(directions), 1))
    alone = _partial(directions, own, one, draws)
    beyond = _partial(directions, own, np.concatenate([one, held], axis=1), draws) if held.shape[1] else alone
    row: dict[str, float | int | None] = {"degrees": beyond["degrees"], "left": beyond["left"]}
    for name, found in (("explained", alone), ("unique", beyond)):
        row |= {name: found["share"], f"{name}_chance": found["chance"], f"{name}_p": found["p"]}
    return row


def _partial(directions: Float[np.ndarray, "examples size"], own: np.ndarray, held: np.ndarray, draws: np.ndarray) -> dict[str, float | int | None]:
    """Share of the total variance that ``own`` adds to ``held`` (which holds the constant), with its permutation p-value."""
    base = _basis(held)
    added = _basis(own - base @ (base.T @ own))
    degrees, left = added.shape[1], len(directions) - base.shape[1] - added.shape[1]
    total = ((directions - directions.mean(0)) ** 2).sum()
    residuals = directions - base @ (base.T @ directions)
    remains = (residuals**2).sum()
    if degrees < 1 or left < 1 or not remains > 1e-12 * len(directions):  # rounding
        return {"degrees": degrees, "left": max(left, 0), "share": None, "chance": None, "p": None}
    axes, sizes, _ = np.linalg.svd(residuals, full_matrices=False)
    residuals = axes * sizes  # the same residuals in at most as many columns as there are examples

    def squares(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = residuals[order]  # [draws, examples, rank]
        return tuple((np.einsum("nk,dnr->dkr", side, moved, optimize=True) ** 2).sum((1, 2)) for side in (added, base))

    step = max(1, _CELLS // residuals.size)
    found = [squares(draws[start : start + step]) for start in range(0, len(draws), step)]
    gained, lost = (np.concatenate(parts) for parts in zip(*found, strict=True))
    stock = ((added.T @ residuals) ** 2).sum()
    ratio, ratios = _ratio(stock, remains - stock), _ratio(gained, remains - lost - gained)
    p = (np.sum(ratios >= ratio * (1 - 1e-10)) + 1) / (len(draws) + 1)
    return {"degrees": degrees, "left": left, "share": float(stock / total), "chance": float(gained.mean() / total), "p": float(p)}


def _ratio(gained: np.ndarray | float, rest: np.ndarray | float) -> np.ndarray | float:
    """Pseudo-F without its degrees of freedom, which are the same for every permutation."""
    return gained / np.maximum(rest, 1e-300)


def _basis(columns: Float[np.ndarray, "examples columns"]) -> Float[np.ndarray, "examples rank"]:
    """Orthonormal columns that span the same space."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular > 1e-9 * max(singular.max(initial=0.0), 1.0)]


def _directions(vectors: Float[np.ndarray, "examples size"]) -> Float[np.ndarray, "examples size"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors, dtype=float), where=lengths > 0)


def _pooled(values: pl.Series) -> np.ndarray:
    """A number for each value, one for all that occur once."""
    text = values.cast(pl.String)
    counts = dict(text.value_counts().iter_rows())
    return np.unique([value if counts[value] > 1 else _RARE for value in text.to_list()], return_inverse=True)[1]


def _dummies(codes: np.ndarray) -> Float[np.ndarray, "examples values"]:
    return (codes[:, None] == np.unique(codes)[None]).astype(float)
