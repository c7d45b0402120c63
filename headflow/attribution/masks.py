"""Masks say which heads are ablated together; a design is a way to draw many of them.

A mask holds one boolean for each head, True = intact. Mask i of a design depends on the seed and on i alone, never on how many
are drawn, so a longer run extends a shorter one and every finished run of the model stays useful.
"""

from typing import Literal, get_args

import numpy as np
import polars as pl
from jaxtyping import Bool

from headflow.attribution.hadamard import hadamard, order_at_least
from headflow.attribution.shapley import kernel_masks
from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.ablations import MASKS

Design = Literal["auto", "bernoulli", "antithetic", "foldover_hadamard", "kernel", "single"]

# Every purpose counts its masks from its own number, so that ids stay the same when a run grows.
INTACT, ABLATED, FIRST_SINGLE, FIRST_HELD_OUT, FIRST_FIT, FIRST_CORNER = 0, 1, 1_000_000, 2_000_000, 3_000_000, 4_000_000

_BLOCK = 256  # masks drawn from one random stream: enough to be fast, little to waste


def resolve_design(
    design: Design, layers: int, heads: int, count: int, ablation_probability: float = 0.5, *, estimand: str = "banzhaf", gradients: bool = False
) -> Design:
    """The design behind ``auto``: kernel for Shapley values; foldover_hadamard where there are gradients, or from two masks a head on; bernoulli
    below or where p is not 0.5.

    Gradients stand in for what a part of an orthogonal design leaves open. Without them, below about two masks a head, random masks read by
    lasso tell more than such a part. As the choice depends on ``count`` then, a run that grows across that line starts afresh: name the design
    to keep it.
    """
    if design != "auto":
        return design
    if estimand == "shapley":
        return "kernel"
    return "foldover_hadamard" if (gradients or count >= 2 * layers * heads) and ablation_probability == 0.5 else "bernoulli"


def sample_masks(
    layers: int, heads: int, count: int, *,
    design: Design = "auto", ablation_probability: float = 0.5, seed: int = 0, stream: str = "fit",
) -> Bool[np.ndarray, "count layers heads"]:  # fmt: skip
    """Draw masks; True = intact.

    Designs:
        bernoulli: every head ablated independently with ``ablation_probability``.
        antithetic: the same in pairs (2r, 2r + 1) made from uniforms u and 1 - u; complements of each other at probability 0.5.
        foldover_hadamard: rows of a Hadamard matrix with randomly chosen columns and signs, in random order, each followed by its
            complement; block after block with fresh columns and signs. Every block is balanced and orthogonal, and pairs of complements
            cancel all even-order interactions (G. E. P. Box and J. S. Hunter, *The 2^(k-p) fractional factorial designs*,
            Technometrics 3, 1961). A block has 2·order masks, with the smallest order ≥ the number of heads.
        kernel: pairs of complements with sizes by the Shapley kernel, for Shapley values; see :mod:`headflow.attribution.shapley`.
        single: mask i ablates head i alone.
        auto: see :func:`resolve_design`.

    Args:
        stream: name of the random stream; masks of different streams are independent.

    Raises:
        HeadflowError: a size below 1, a probability outside (0, 1), an unknown design, more ``single`` masks than heads, or
            foldover_hadamard (which ablates half of the heads by construction) with a probability other than 0.5.
    """
    total = layers * heads
    if layers < 1 or heads < 1 or count < 1:
        raise HeadflowError(f"layers = {layers}, heads = {heads}, count = {count}: masks need at least one of each")
    if not 0.0 < ablation_probability < 1.0:
        raise HeadflowError(f"ablation_probability = {ablation_probability}: must lie between 0 and 1")
    if design not in get_args(Design):
        raise HeadflowError(f"design = {design!r}: must be one of {', '.join(get_args(Design))}")
    design = resolve_design(design, layers, heads, count, ablation_probability)
    if design == "single":
        if count > total:
            raise HeadflowError(f"masks.count = {count}: design 'single' has one mask for each of the {total} heads; set the count to {total}")
        flat = ~np.eye(count, total, dtype=bool)
    elif design == "bernoulli":
        flat = _blocks(count, _BLOCK, lambda block: _uniforms(seed, f"{stream} bernoulli", block, _BLOCK, total) >= ablation_probability)
    elif design == "kernel":
        flat = kernel_masks(total, count, seed=seed, stream=stream)
    elif design == "antithetic":
        flat = _blocks(count, _BLOCK, lambda block: _antithetic(_uniforms(seed, f"{stream} antithetic", block, _BLOCK // 2, total), ablation_probability))
    else:
        if ablation_probability != 0.5:
            raise HeadflowError(
                f"masks.ablation_probability = {ablation_probability}: design 'foldover_hadamard' ablates half of the heads;"
                " set it to 0.5 or choose the design 'antithetic'"
            )
        matrix = hadamard(order_at_least(total)) > 0
        flat = _blocks(count, 2 * len(matrix), lambda block: _foldover(matrix, total, generator(seed, f"{stream} foldover_hadamard", block)))
    return flat.reshape(count, layers, heads)


def sample_corners(
    layers: int, heads: int, count: int, *, estimand: str = "banzhaf", ablation_probability: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, "count layers heads"]:
    """Masks at which gradients are taken, in pairs: complementary for shapley or probability 0.5, else antithetic.

    For ``shapley`` the share of intact heads of pair r is spread evenly: van der Corput's sequence with a random shift.
    """
    if estimand == "banzhaf":
        return sample_masks(layers, heads, count, design="antithetic", ablation_probability=ablation_probability, seed=seed, stream="corners")
    if estimand != "shapley":
        raise HeadflowError(f"masks.estimand = {estimand!r}: must be banzhaf or shapley")
    shift = generator(seed, "corners shapley shift").random()
    masks = np.empty((-(-count // 2), 2, layers, heads), bool)
    for pair in range(len(masks)):
        intact = (_van_der_corput(pair) + shift) % 1.0
        masks[pair, 0] = generator(seed, "corners shapley", pair).random((layers, heads)) < intact
        masks[pair, 1] = ~masks[pair, 0]
    return masks.reshape(-1, layers, heads)[:count]


def in_complementary_pairs(masks: Bool[np.ndarray, "count layers heads"]) -> bool:
    """Whether masks 2r and 2r + 1 are complements for every r (an odd mask at the end is left aside)."""
    pairs = len(masks) // 2
    return pairs > 0 and bool((masks[0 : 2 * pairs : 2] != masks[1 : 2 * pairs : 2]).all())


def pack(masks: Bool[np.ndarray, "count layers heads"]) -> list[bytes]:
    """Each mask as bytes: numpy.packbits over layers, then heads; 1 = intact."""
    return [row.tobytes() for row in np.packbits(masks.reshape(len(masks), -1), axis=1)]


def unpack(bits: list[bytes], layers: int, heads: int) -> Bool[np.ndarray, "count layers heads"]:
    """The inverse of :func:`pack`.

    Raises:
        HeadflowError: a mask has too many or too few bytes for that many heads.
    """
    width = -(-layers * heads // 8)
    for index, row in enumerate(bits):
        if len(row) != width:
            raise HeadflowError(f"mask {index} holds {len(row)} bytes, {layers} layers × {heads} heads need {width}; run `dvc repro` to sample masks anew")
    packed = np.frombuffer(b"".join(bits), np.uint8).reshape(len(bits), width)
    return np.unpackbits(packed, axis=1, count=layers * heads).astype(bool).reshape(len(bits), layers, heads)


def mask_table(
    layers: int, heads: int, *,
    design: Design = "auto", estimand: str = "banzhaf", count: int = 256, corners: int = 0, held_out: int = 128,
    ablation_probability: float = 0.5, seed: int = 0,
) -> pl.DataFrame:  # fmt: skip
    """All masks of a run as a MASKS table: intact, ablated, every single head, held-out, fit, corners.

    Held-out masks have a stream of their own and are Bernoulli; kernel for Shapley values, so that they judge the fit where it was made.
    Masks that ablate one head each take no corners.

    The keyword arguments are those of the ``masks`` params. Ids count up from one fixed number for each purpose, so they keep their
    meaning when ``count`` or ``held_out`` grows.

    Raises:
        HeadflowError: see :func:`sample_masks`; or so many masks or heads that the ids of two purposes would meet.
    """
    total = layers * heads
    for number, room, what in (
        (total, FIRST_HELD_OUT - FIRST_SINGLE, "heads"),
        (held_out, FIRST_FIT - FIRST_HELD_OUT, "held-out masks"),
        (count, FIRST_CORNER - FIRST_FIT, "fit masks"),
    ):
        if number > room:
            raise HeadflowError(f"{number} {what}: at most {room} fit into the numbering of masks")
    shape = (1, layers, heads)
    chosen = resolve_design(design, layers, heads, count, ablation_probability, estimand=estimand, gradients=corners > 0)
    if estimand == "shapley" and chosen != "kernel":
        raise HeadflowError(f"masks.design = {design!r}: Shapley values need the design 'kernel'; set it to 'auto'")
    judges = "kernel" if estimand == "shapley" else "bernoulli"
    parts = [
        ("intact", INTACT, np.ones(shape, bool)),
        ("ablated", ABLATED, np.zeros(shape, bool)),
        ("single", FIRST_SINGLE, sample_masks(layers, heads, total, design="single")),
        ("held_out", FIRST_HELD_OUT, sample_masks(
            layers, heads, held_out, design=judges, ablation_probability=ablation_probability, seed=seed, stream="held_out")),
        ("fit", FIRST_FIT, sample_masks(layers, heads, count, design=chosen, ablation_probability=ablation_probability, seed=seed)),
    ]  # fmt: skip
    if corners and chosen != "single":
        drawn = sample_corners(layers, heads, corners, estimand=estimand, ablation_probability=ablation_probability, seed=seed)
        parts.append(("corner", FIRST_CORNER, drawn))
    frames = [
        pl.DataFrame(
            {"mask": np.arange(first, first + len(masks), dtype=np.int64), "purpose": [purpose] * len(masks), "bits": pack(masks)},
            schema={name: column.dtype for name, column in MASKS.columns.items()},
        )
        for purpose, first, masks in parts
    ]
    return pl.concat(frames)


def _blocks(count, size, draw) -> Bool[np.ndarray, "count total"]:
    """The first ``count`` rows of draw(0), draw(1), …, each of ``size`` rows."""
    return np.concatenate([draw(block)[: count - block * size] for block in range(-(-count // size))])


def _uniforms(seed: int, stream: str, block: int, rows: int, total: int) -> np.ndarray:
    return generator(seed, stream, block).random((rows, total))


def _antithetic(uniforms: np.ndarray, ablation_probability: float) -> Bool[np.ndarray, "2*rows total"]:
    # `>=` in one and `>` in the other: at probability 0.5 the two are complements even for u = 0.5 exactly
    pairs = np.stack([uniforms >= ablation_probability, 1.0 - uniforms > ablation_probability], axis=1)
    return pairs.reshape(-1, uniforms.shape[1])


def _foldover(matrix: Bool[np.ndarray, "order order"], total: int, random: np.random.Generator) -> Bool[np.ndarray, "2*order total"]:
    order = len(matrix)
    rows = matrix[:, random.permutation(order)[:total]][random.permutation(order)] ^ (random.random(total) < 0.5)
    return np.stack([rows, ~rows], axis=1).reshape(2 * order, total)


def _van_der_corput(index: int) -> float:
    """The bits of ``index`` mirrored at the binary point."""
    value, share = 0.0, 0.5
    while index:
        value += share * (index & 1)
        index, share = index >> 1, share / 2
    return value
