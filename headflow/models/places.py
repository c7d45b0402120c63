"""Which part of the picture does each image token show? Measured, for any model: no family's tiling, merging or padding is known here.

First, where in the picture each number that the processor makes comes from (:mod:`headflow.models.origins`). Second, which of these
numbers reach which token when no token looks at another one (:mod:`headflow.models.unmixed`): a number reaches a token where its
gradient is not zero. Tokens are asked about in groups, as in group testing (Dorfman 1943): by the bits of their number, so
that some twenty gradients tell thousands of tokens apart; where features were interpolated and a pixel reaches several tokens, by
random groups. A token's box is the rectangle of the pixels that reach it: of a patch, unless the weights leave a part of it unread, as
those of planted models do.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import theilslopes
from torch import Tensor

from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.models.origins import origins, pixel_inputs
from headflow.models.unmixed import picture_tokens

# A pixel may reach so many tokens: features interpolated from one grid to another (LLaVA-OneVision) mix four.
_SHARED = 4
# Random groups tell sets of up to _SHARED tokens apart: each group leaves a token that is in no such set out with
# probability p (1 - p)^4 = 0.08 at p = 1/5, so that all 320 fail to with probability 1e-12.
_GROUPS, _IN_GROUP = 320, 0.2
_WORD = 62  # bits
_BLOCK = 1024  # kinds of pixels at once
# Share of the largest gradient that is taken for none.
_ROUNDING = 1e-6
# Less of its rectangle than this filled: the token shows places that lie apart.
_FILLED = 0.5
# Views whose pixels differ less in size are of one scale.
_SAME_SCALE = 0.1
# Gap between boxes that is no gap in the picture, as a share of a box's side.
_GAP = 0.03
# Error of a place where nothing is scaled, pixels; see origins.
_MEASURED = 0.02


@dataclass(frozen=True)
class Places:
    """Where the image tokens of one example lie on its picture.

    Attributes:
        boxes: left, top, right, bottom of what each token shows, in pixels of the picture (0 = its left or top border); NaN for tokens
            that show no part of it (newlines, row breaks, tile markers, padding). One row for each position of the image span
            (``capture.image``); under cross-attention for each key of the picture (``capture.key_image``). Views overlap: where a model
            is given tiles and the whole picture, each place has several tokens.
        size: width and height of the picture.
        covered: share of the picture that lies in a box; less than 1 where the processor crops.
        exact: whether every token has its own part of the picture; otherwise no token has a box.
        reason: why not; empty if ``exact``.
    """

    boxes: Float[np.ndarray, "image 4"]
    size: tuple[int, int]
    covered: float
    exact: bool
    reason: str = ""


_known: WeakKeyDictionary[torch.nn.Module, dict[tuple, Places]] = WeakKeyDictionary()


def places(capture: Capture) -> Places:
    """The places of an example's image tokens; measured once for each model, picture size and layout, then remembered.

    Costs some twenty pictures in the processor, two forwards of the vision tower, and two dozen gradients through its first and last
    layers (some 350 where features are interpolated). Attention in the vision tower is switched off meanwhile, for this thread alone.

    Raises:
        HeadflowError: the processor's numbers cannot be traced back to the picture (:func:`headflow.models.origins.pixel_inputs`).
    """
    known = _known.setdefault(capture.lvlm.model, {})
    key = (capture.picture.size, capture.layout())
    if key not in known:
        known[key] = _measure(capture)
    return known[key]


def boxes_on_picture(capture: Capture) -> tuple[Float[np.ndarray, "image 4"], str]:
    """The box of each image token on the picture, NaN where it has none; and why no token has one, where none has."""
    try:
        measured = places(capture)
    except HeadflowError as error:
        return np.full((capture.key_image.stop - capture.key_image.start, 4), np.nan), str(error)
    return measured.boxes, "" if measured.exact else measured.reason


def _measure(capture: Capture) -> Places:
    lvlm, size = capture.lvlm, capture.picture.size
    black, white = pixel_inputs(lvlm, size, capture.question)
    where = origins(lvlm, size, capture.question, black, white)
    tokens = capture.key_image.stop - capture.key_image.start
    nowhere = np.full((tokens, 4), np.nan)
    gradients = _Gradients(lvlm, capture, black, white)
    if not gradients.reach:
        return Places(nowhere, size, 0.0, False, "no gradient leads from the picture's tokens to its pixels (tokens of a codebook?)")
    entries = np.flatnonzero(np.isfinite(where[0]))
    pairs = _reached(gradients, entries, tokens)
    if pairs is None:
        return Places(nowhere, size, 0.0, False, f"single pixels reach more than {_SHARED} image tokens even with attention switched off (convolutions?)")
    entry, token = pairs
    if not len(entry):
        return Places(nowhere, size, 0.0, False, "no pixel reaches any image token")
    boxes, filled = _boxes(where[:, entry], token, tokens, size)
    if not filled > _FILLED:
        return Places(nowhere, size, 0.0, False, "image tokens show places that lie apart from each other")
    return Places(boxes, size, _covered(boxes, size), True)


class _Gradients:
    """Which pixel entries reach any token of a group."""

    def __init__(self, lvlm: LVLM, capture: Capture, black: dict[str, Tensor], white: dict[str, Tensor]) -> None:
        # Random pixels: what is even all over may be lost (a first layer without a mean, a norm of nothing).
        draws = torch.Generator().manual_seed(0)
        self.pixels = []
        for name, high in white.items():
            share = torch.rand(high.shape, generator=draws).to(high)
            self.pixels.append((black[name] + share * (high - black[name])).requires_grad_())
        with torch.enable_grad():
            tokens = picture_tokens(lvlm, {**black, **dict(zip(white, self.pixels, strict=True))}, capture.image)
            self.outputs = tokens @ torch.randn(tokens.shape[-1], generator=draws).to(tokens)
        self.reach = self.outputs.requires_grad

    def __call__(self, group: Bool[np.ndarray, " tokens"]) -> Bool[np.ndarray, " entries"]:
        weights = torch.from_numpy(group).to(self.outputs)
        found = torch.autograd.grad(self.outputs, self.pixels, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        # Zeros are exact zeros, but for convolutions by Fourier transform.
        least = _ROUNDING * max(float(x.abs().max()) for x in found)
        return torch.cat([(x.abs() > least).flatten().cpu() for x in found]).numpy()


def _reached(gradients: _Gradients, entries: Int[np.ndarray, " found"], tokens: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]] | None:
    """Pairs of a pixel entry, out of ``entries``, and a token that it reaches; None if some reach more than _SHARED tokens."""
    bits = max(1, (tokens - 1).bit_length())
    ones = (np.arange(tokens) >> np.arange(bits)[:, None] & 1).astype(bool)
    groups = np.concatenate([ones, ~ones])
    hits, members = _answers(gradients, groups, entries)
    one, zero = hits[:, :bits], hits[:, bits:]
    single = (one ^ zero).all(1)
    shared = (one & zero).any(1)
    numbers = (one << np.arange(bits)).sum(1)
    pairs = [(entries[single[members]], numbers[members][single[members]])]
    left = entries[shared[members]]
    if len(left):
        groups = np.random.default_rng(0).random((_GROUPS, tokens)) < _IN_GROUP
        hits, members = _answers(gradients, groups, left)
        sets = _sets(hits, groups)
        if sets is None:
            return None
        for reached in sets.T[:, members]:
            pairs.append((left[reached >= 0], reached[reached >= 0]))
    return tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True))


def _sets(hits: Bool[np.ndarray, "kinds groups"], groups: Bool[np.ndarray, "groups tokens"]) -> Int[np.ndarray, "kinds most"] | None:
    """The tokens that each kind of entry reaches, at most _SHARED, then -1; None if some reach more."""
    sets = np.full((len(hits), _SHARED), -1)
    for start in range(0, len(hits), _BLOCK):
        # A token is among those reached unless one of its groups was not.
        kind, token = np.nonzero((~hits[start : start + _BLOCK]).astype(np.float32) @ groups.astype(np.float32) == 0)
        rank = np.arange(len(kind)) - np.searchsorted(kind, kind)
        if rank.max(initial=0) >= _SHARED:
            return None
        sets[start + kind, rank] = token
    return sets


def _answers(
    gradients: _Gradients, groups: Bool[np.ndarray, "groups tokens"], entries: Int[np.ndarray, " found"]
) -> tuple[Bool[np.ndarray, "kinds groups"], Int[np.ndarray, " found"]]:
    """Entries that reach the same groups are of one kind: which groups each kind reaches, and the kind of each entry."""
    words = np.zeros((-(-len(groups) // _WORD), len(entries)), dtype=np.int64)
    for i, group in enumerate(groups):
        words[i // _WORD] |= gradients(group)[entries].astype(np.int64) << (i % _WORD)
    kinds = np.zeros(len(entries), dtype=np.int64)
    for word in words:
        values, number = np.unique(word, return_inverse=True)
        _, first, kinds = np.unique(kinds * len(values) + number, return_index=True, return_inverse=True)
    hits = words[:, first].T[:, :, None] >> np.arange(_WORD) & 1
    return hits.reshape(len(first), -1)[:, : len(groups)].astype(bool), kinds


def _boxes(
    where: Float[np.ndarray, "2 pairs"], token: Int[np.ndarray, " pairs"], tokens: int, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "tokens 4"], float]:
    """The rectangle of each token's pixels, and the least share of such a rectangle that its pixels fill."""
    boxes, filled = np.full((tokens, 4), np.nan), 1.0
    order = np.argsort(token, kind="stable")
    numbers, starts = np.unique(token[order], return_index=True)
    lattices = [[_lattice(where[axis, mine]) for axis in (0, 1)] for mine in np.split(order, starts[1:])]
    for (columns, x), (rows, y) in lattices:
        filled = min(filled, len(np.unique(x * len(rows) + y)) / (len(columns) * len(rows)))
    for axis, length in enumerate(size):
        centres = [both[axis][0] for both in lattices]
        pitch = _pitches(centres)
        # Medians: at the picture's border resampling averages what is left inside, and the outermost pixels lie too far in.
        first = np.array([np.median(middle - step * np.arange(len(middle))) for middle, step in zip(centres, pitch, strict=True)])
        edges = np.array([first - pitch / 2, first + pitch * np.array([len(middle) - 0.5 for middle in centres])]).clip(0, length)
        for border in (0, length):
            edges = np.where(np.abs(edges - border) < pitch / 2, border, edges)
        # What is nearer to the border of whole pixels than can be measured lies there.
        boxes[numbers, axis], boxes[numbers, axis + 2] = np.where(np.abs(edges - np.rint(edges)) < _MEASURED, np.rint(edges), edges)
    return boxes, filled


def _lattice(places: Float[np.ndarray, " entries"]) -> tuple[Float[np.ndarray, " columns"], Int[np.ndarray, " entries"]]:
    """One token's pixels along one axis: the middle of each column of them, in order, and the column that each entry is in."""
    order = np.argsort(places)
    gaps = np.diff(places[order])
    column = np.zeros(len(places), dtype=int)
    column[order[1:]] = np.cumsum(gaps > max(gaps.max(initial=0.0) / 2, _MEASURED))
    return np.bincount(column, places) / np.bincount(column), column


def _pitches(centres: list[Float[np.ndarray, " columns"]]) -> Float[np.ndarray, " placed"]:
    """Distance of the columns of pixels, token by token: the median over tokens with about the same one, so over views of one scale.

    A token that has a single column (cut off at the end of a tile) gets that of the nearest token with more; one pixel if there is none.
    """
    own = np.array([theilslopes(middle).slope if len(middle) > 1 else 0.0 for middle in centres])
    known = np.flatnonzero(own)
    if not len(known):
        return np.ones(len(own))
    own = own[known[np.searchsorted((known[1:] + known[:-1]) / 2, np.arange(len(own)))]]
    order = np.argsort(own)
    scale = np.zeros(len(own), dtype=int)
    scale[order[1:]] = np.cumsum(np.diff(own[order]) > _SAME_SCALE * own[order[:-1]])
    return np.array([np.median(own[scale == number]) for number in range(scale.max() + 1)])[scale]


def _covered(boxes: Float[np.ndarray, "image 4"], size: tuple[int, int]) -> float:
    """Share of the pixels whose middle lies in a box, or closer to one than boxes are exact."""
    inside = np.zeros(size[::-1], dtype=bool)
    found = boxes[np.isfinite(boxes[:, 0])]
    room = _GAP * np.tile(found[:, 2:] - found[:, :2], 2) * [-1, -1, 1, 1]
    for left, top, right, bottom in np.rint(found + room).clip(0).astype(int):
        inside[top:bottom, left:right] = True
    return float(inside.mean())
