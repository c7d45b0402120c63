"""Does the token that names an object look at that object? (Kaduri et al. 2025, localisation.)

The paper finds that attention from the generated token that names an object falls inside the object's region. Here that is measured on maps over the
image tokens, each with the share of its box that lies in the object's mask (*inside*, :func:`headflow.analysis.picture_maps.covered`), by three
statistics [ours: the paper shows pictures and counts of objects]:

- *share inside*: the part of the map's positive amount that lies in the mask. Chance: the mean of *inside*, what a map of one value gives.
- *AUROC*: how often a token inside has more than a token outside, ties counting one half (J. A. Hanley and B. J. McNeil, *The meaning and use of the area
  under a receiver operating characteristic (ROC) curve*, Radiology 143, 1982). A token at the object's edge is inside by the share of its box that
  is, and outside by the rest. Chance: 0.5, whatever the object's size.
- *pointing game*: whether the largest token falls in the mask (J. Zhang et al., *Top-down neural attention by excitation backprop*, ECCV 2016); of a
  token at the edge, the chance that a point drawn in its box does. Chance: the mean of *inside*.

Tokens without a box (newlines, row breaks) are left out. Where nothing, or all, of the placed tokens lies inside, no statistic is defined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from headflow.analysis.picture_maps import covered

STATISTICS = ("share", "auroc", "pointing")
Mask = Bool[np.ndarray, "height width"]
Maps = Float[np.ndarray, "*maps tokens"]


class Named(Protocol):
    """A name in a text: :class:`headflow.judging.match.Mention`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Naming:
    """The first time that a description names an object that the picture shows.

    Attributes:
        name: what the vocabulary calls it.
        word: as it stands in the description.
        start, stop: where, characters.
        token: place of the first token of the word among the description's tokens.
        objects: true objects of this name.
        mask: their pixels together.
        others: pixels of each object of another name, without those of ``mask``.
    """

    name: str
    word: str
    start: int
    stop: int
    token: int
    objects: int
    mask: Mask
    others: list[Mask]


def namings(
    text: str, mentions: Sequence[Named], starts: Sequence[int], stops: Sequence[int], masks: Mapping[str, Sequence[Mask]]
) -> tuple[list[Naming], list[str]]:  # fmt: skip
    """The first mention of each known object.

    Where several objects of a picture have the name, it cannot be told which one is meant: their masks are taken together.

    Args:
        text: the description.
        mentions: the names in it, in order.
        starts, stops: the characters of each of its tokens.
        masks: name → the masks of the true objects of that name.

    Returns:
        The namings, and the names of the others that are mentioned: the picture does not show them, or where is not known.
    """
    found, unknown, seen = [], [], set()
    for mention in mentions:
        if mention.name in seen:
            continue
        seen.add(mention.name)
        own = list(masks.get(mention.name, ()))
        token = next((place for place, stop in enumerate(stops) if stop > mention.start and starts[place] < mention.stop), None)
        if not own or token is None:
            unknown.append(mention.name)
            continue
        whole = np.logical_or.reduce(own)
        others = [mask & ~whole for name, several in masks.items() if name != mention.name for mask in several]
        word = text[mention.start : mention.stop]
        found.append(Naming(mention.name, word, mention.start, mention.stop, token, len(own), whole, [mask for mask in others if mask.any()]))
    return found, unknown


@dataclass(frozen=True)
class Placed:
    """Statistics of some maps against one mask, ``[*maps]`` each, nan where they are not defined."""

    share: Float[np.ndarray, "*maps"]
    auroc: Float[np.ndarray, "*maps"]
    pointing: Float[np.ndarray, "*maps"]

    def __getitem__(self, statistic: str) -> Float[np.ndarray, "*maps"]:
        return getattr(self, statistic)


def inside_of(boxes: Float[np.ndarray, "tokens 4"], mask: Mask) -> Float[np.ndarray, " tokens"]:
    """Share of each token's box that lies in the mask; nan for tokens without a box."""
    found = np.full(len(boxes), np.nan)
    placed = np.isfinite(boxes).all(1)
    found[placed] = covered(boxes[placed], mask)
    return found


def placed(maps: Maps, inside: Float[np.ndarray, " tokens"]) -> Placed:
    """All statistics of maps, larger values meaning more.

    Args:
        maps: attention, or attribution with its sign: what speaks against a word does not count as being on its object.
        inside: :func:`inside_of`.
    """
    known = np.isfinite(inside)
    values, inside = np.asarray(maps, float)[..., known], inside[known]
    if not 0 < inside.sum() < len(inside):
        return Placed(*(np.full(maps.shape[:-1], np.nan) for _ in STATISTICS))
    return Placed(_share(values, inside), auroc(values, inside), _pointing(values, inside))


def chances(inside: Float[np.ndarray, " tokens"]) -> dict[str, float]:
    """What each statistic is by chance; nan where none is defined."""
    even = float(np.nanmean(inside)) if np.isfinite(inside).any() else np.nan
    return {"share": even, "auroc": 0.5, "pointing": even} if 0 < even < 1 else dict.fromkeys(STATISTICS, np.nan)


def ceilings(inside: Float[np.ndarray, " tokens"]) -> dict[str, float]:
    """The most that any map of these tokens can reach: less than 1 where tokens are larger than parts of the object."""
    values = placed(np.nan_to_num(inside)[None], inside)
    most = float(np.nanmax(inside)) if np.isfinite(values.auroc[0]) else np.nan
    return {"share": most, "auroc": float(values.auroc[0]), "pointing": most}


def auroc(maps: Maps, inside: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, "*maps"]:
    """Area under the ROC curve of many maps at once, every token being inside with weight ``inside`` and outside with the rest.

    The same number as scikit-learn's ``roc_auc_score`` of each map with these weights, which takes one map at a time.
    """
    order = np.argsort(maps, -1, kind="stable")
    values, weight = np.take_along_axis(maps, order, -1), inside[order]
    below = np.cumsum(1 - weight, -1)
    changes = values[..., 1:] != values[..., :-1]
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    edge = np.ones((*values.shape[:-1], 1), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], -1), place, 0), -1)
    last = np.minimum.accumulate(np.where(np.concatenate([changes, edge], -1), place, values.shape[-1])[..., ::-1], -1)[..., ::-1]
    under = np.take_along_axis(below - (1 - weight), first, -1)
    upto = np.take_along_axis(below, last, -1)
    return (weight * (under + upto)).sum(-1) / (2 * inside.sum() * (1 - inside).sum())


def _share(values: Maps, inside: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, "*maps"]:
    amount = np.maximum(values, 0.0)
    total = amount.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, amount @ inside / total, np.nan)


def _pointing(values: Maps, inside: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, "*maps"]:
    largest = values == values.max(-1, keepdims=True)
    return (largest * inside).sum(-1) / largest.sum(-1)
