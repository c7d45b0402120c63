"""Values of image tokens as a map on the picture, and how much of them falls on its objects.

A token's value is spread evenly over its box (:mod:`headflow.models.places`), so that a map adds up to what the tokens add up to: where
tiles and the whole picture are both shown to the model, their maps are summed. Tokens that show no part of the picture have no box
(NaN) and are left out. Values that are NaN count as zero.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headflow.errors import HeadflowError

Boxes = Float[np.ndarray, "image 4"]
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Shares:
    """How values are divided between the object, other objects and the background; each triple adds up to 1 (NaN where there is nothing to divide).

    Attributes:
        object, others, background: share of the tokens' absolute values.
        even_object, even_others, even_background: the same if all tokens had one value: what chance would give. Not quite the area, where a
            processor crops the picture.
        area_object, area_others, area_background: share of the picture's pixels.
        placed: share of all absolute values that belongs to tokens with a box, and so is divided here.
    """

    object: float
    others: float
    background: float
    even_object: float
    even_others: float
    even_background: float
    area_object: float
    area_others: float
    area_background: float
    placed: float


def to_pixels(values: Float[np.ndarray, " image"], boxes: Boxes, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Token values on the picture, in their unit per pixel: each pixel gets from each token what of the token's box it covers.

    Args:
        values: one a token, signed or not.
        boxes: left, top, right, bottom of each token, pixels.
        size: width and height of the picture.

    Raises:
        HeadflowError: there is not one value for each box.
    """
    values, boxes = _placed(values, boxes)
    columns, rows = _cover(boxes, size)
    return rows.T @ (values[:, None] * columns)


def covered(boxes: Boxes, mask: Mask) -> Float[np.ndarray, " image"]:
    """Share of each token's box that lies in ``mask``; NaN for tokens without a box."""
    columns, rows = _cover(boxes, mask.shape[::-1])
    return ((rows @ mask.astype(float)) * columns).sum(1)


def shares(values: Float[np.ndarray, " image"], boxes: Boxes, object_mask: Mask, other_masks: list[Mask]) -> Shares:
    """How the absolute values of tokens are divided between the object, the other objects and the background.

    A token that lies partly in a mask counts by the share of its box that does. A pixel of several objects belongs to the object
    if that is among them.

    Args:
        values: one a token; where they are signed, their size counts.
        boxes: left, top, right, bottom of each token, pixels.
        object_mask: the object that is asked about.
        other_masks: the others, possibly none; all masks have the size of the picture.

    Raises:
        HeadflowError: there is not one value for each box, or masks differ in size.
    """
    if any(mask.shape != object_mask.shape for mask in other_masks):
        raise HeadflowError(f"masks of one picture differ in size: {sorted({mask.shape[::-1] for mask in (object_mask, *other_masks)})}")
    whole = float(np.abs(np.nan_to_num(values)).sum())
    values, boxes = _placed(values, boxes)
    others = np.logical_or.reduce([np.zeros_like(object_mask), *other_masks]) & ~object_mask
    inside = np.stack([covered(boxes, mask) for mask in (object_mask, others, ~(object_mask | others))])
    weights = np.abs(values)
    divided = [*_means(inside, weights), *_means(inside, np.ones(len(values)))]
    area = object_mask.mean(), others.mean(), 1 - (object_mask | others).mean()
    return Shares(*divided, *map(float, area), placed=float(weights.sum()) / whole if whole else np.nan)


def sparsity(values: Float[np.ndarray, " image"], share: float = 0.8) -> int:
    """The fewest tokens that hold ``share`` (0..1) of all absolute values; 0 if all are zero."""
    held = np.cumsum(np.sort(np.abs(np.nan_to_num(values)))[::-1])
    if not len(held) or not held[-1]:
        return 0
    # Without room for rounding, 80 % of ten equal values would be nine.
    return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1


def _placed(values: Float[np.ndarray, " image"], boxes: Boxes) -> tuple[Float[np.ndarray, " placed"], Float[np.ndarray, "placed 4"]]:
    if values.shape != boxes.shape[:1]:
        raise HeadflowError(f"{values.size} token values cannot be put into {len(boxes)} boxes: there must be one for each image token")
    has = np.isfinite(boxes).all(1)
    return np.nan_to_num(values[has].astype(float)), boxes[has]


def _cover(boxes: Boxes, size: tuple[int, int]) -> tuple[Float[np.ndarray, "image width"], Float[np.ndarray, "image height"]]:
    """Share of each box's width that lies in each column of pixels, and of its height in each row."""
    sides = []
    for axis, length in enumerate(size):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        at = np.arange(length)
        sides.append((np.minimum(high, at + 1) - np.maximum(low, at)).clip(0, None) / (high - low))
    return sides[0], sides[1]


def _means(inside: Float[np.ndarray, "parts placed"], weights: Float[np.ndarray, " placed"]) -> list[float]:
    total = weights.sum()
    return (inside @ weights / total).tolist() if total > 0 else [float("nan")] * len(inside)
