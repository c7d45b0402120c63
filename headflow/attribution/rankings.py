"""Orders of heads, most important first: head attribution and its rivals, all from the same masked runs and gate gradients.

A ranking orders the heads by a signed score, target units or shares: a head that lowers the target comes after one that does nothing.
Scores that are equal but for rounding are ordered by layer, then head, so that a ranking is the same every time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.faithfulness import RANKINGS

Ranking = Literal["attribution", "ablation", "restoration", "attention", "gradient", "integrated", "random"]

MEANINGS: dict[str, str] = {
    "attribution": "regression on masks that ablate many heads at once (Kim et al. 2025)",
    "ablation": "f(intact) - f(only this head ablated)",
    "restoration": "f(only this head intact) - f(all heads ablated)",
    "attention": "share of the final token's attention on the image",
    "gradient": "gate gradient at the intact model: gradient x (real - baseline), attribution patching",
    "integrated": "the same, mean over the straight way from all heads ablated to all intact: integrated gradients",
    "random": "a random order, drawn for each example",
}
"""What each ranking orders the heads by."""

RESOLUTION = 1e-4
"""Scores that differ by less than this share of the largest one count as equal."""

Run = Callable[[Bool[np.ndarray, "masks layers heads"]], Float[np.ndarray, " masks"]]
Differentiate = Callable[[Float[np.ndarray, "points layers heads"]], Float[np.ndarray, "points layers heads"]]


def alone(layers: int, heads: int) -> Bool[np.ndarray, "one_and_heads layers heads"]:
    """No head intact, then each head intact alone, layer by layer."""
    return np.concatenate([np.zeros((1, layers * heads), bool), np.eye(layers * heads, dtype=bool)]).reshape(-1, layers, heads)


def diagonal(layers: int, heads: int, points: int) -> Float[np.ndarray, "points layers heads"]:
    """Gates on the straight way from every head ablated (0) to every head intact (1): the middles of ``points`` equal steps.

    The mean gradient over them is the midpoint rule for integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365), whose
    scores sum to f(intact) - f(ablated) up to the rule's error.
    """
    middles = (np.arange(points, dtype=np.float32) + 0.5) / points
    return np.broadcast_to(middles[:, None, None], (points, layers, heads)).copy()


def gradient_gates(layers: int, heads: int, wanted: Collection[Ranking], points: int = 8) -> Float[np.ndarray, "gates layers heads"]:
    """Gates at which :func:`measured_scores` takes gradients: all intact for ``gradient``, then the :func:`diagonal` for ``integrated``."""
    intact = np.ones((1 if "gradient" in wanted else 0, layers, heads), np.float32)
    return np.concatenate([intact, diagonal(layers, heads, points if "integrated" in wanted else 0)])


def measured_scores(
    run: Run, differentiate: Differentiate, layers: int, heads: int, *, wanted: Sequence[Ranking] = ("ablation", "restoration", "gradient", "integrated"),
    points: int = 8,
) -> dict[str, Float[np.ndarray, "layers heads"]]:  # fmt: skip
    """Scores of one example for those rankings that need runs of their own; the others come from tables.

    Args:
        run: targets under masks, e.g. ``lambda masks: run_masks(capture, masks)``.
        differentiate: derivatives of the target by every gate, e.g. ``lambda gates: gate_gradients(capture, gates)[1]``.
        wanted: which of them.
        points: of the integrated gradients.

    Raises:
        HeadflowError: a ranking that is not made of runs; a score that is not finite.
    """
    total, shape, scores = layers * heads, (layers, heads), {}
    if unknown := set(wanted) - {"ablation", "restoration", "gradient", "integrated"}:
        raise HeadflowError(f"ranking {min(unknown)!r} is not measured by runs of its own")
    if "ablation" in wanted:
        targets = run(np.concatenate([np.ones((1, *shape), bool), ~np.eye(total, dtype=bool).reshape(total, *shape)]))
        scores["ablation"] = (targets[0] - targets[1:]).reshape(shape)
    if "restoration" in wanted:
        targets = run(alone(layers, heads))
        scores["restoration"] = (targets[1:] - targets[0]).reshape(shape)
    gates = gradient_gates(layers, heads, wanted, points)
    if len(gates):
        gradients = differentiate(gates)
        if "gradient" in wanted:
            scores["gradient"] = gradients[0]
        if "integrated" in wanted:
            scores["integrated"] = gradients[-points:].mean(0)
    return {name: _finite(name, scores[name]) for name in wanted}


def random_scores(layers: int, heads: int, *, seed: int, example: str) -> Float[np.ndarray, "layers heads"]:
    """A random order of the heads; it depends on the seed and the example's id alone."""
    return generator(seed, f"random ranking {example}").permutation(layers * heads).reshape(layers, heads).astype(float)


def places(scores: Float[np.ndarray, "*some layers heads"]) -> Int[np.ndarray, "*some layers heads"]:
    """The place of each head in the order of falling score, 0 = first; equal scores by layer, then head.

    Scores are rounded to 1e-4 of the largest one first: a head that does nothing has a score of nothing but rounding, which must not
    decide where it stands, let alone with the batch size.
    """
    flat = np.asarray(scores, float).reshape(*scores.shape[:-2], -1)
    step = RESOLUTION * np.abs(flat).max(-1, keepdims=True)
    order = np.argsort(-np.rint(flat / np.where(step > 0, step, 1.0)), axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable").reshape(scores.shape)


def rankings_table(
    ids: Sequence[str], own: Mapping[str, Float[np.ndarray, "examples layers heads"]], shared: Mapping[str, Float[np.ndarray, "layers heads"]]
) -> pl.DataFrame:
    """Scores and places by ranking, each example's own and those shared by all, as a RANKINGS table."""
    frames = []
    for scope, scores in (("own", own), ("shared", {name: grid[None] for name, grid in shared.items()})):
        for name, grid in scores.items():
            examples, layers, heads = grid.shape
            layer, head = (index.ravel() for index in np.indices((layers, heads)))
            columns = {
                "id": np.repeat(np.asarray(ids, object), len(layer)) if scope == "own" else [None] * len(layer),
                "ranking": [name] * grid.size, "scope": [scope] * grid.size, "layer": np.tile(layer, examples), "head": np.tile(head, examples),
                "score": grid.ravel().astype(float), "place": places(grid).ravel().astype(np.int64),
            }  # fmt: skip
            frames.append(pl.DataFrame(columns, schema={column: of.dtype for column, of in RANKINGS.columns.items()}))
    return pl.concat(frames)


def _finite(name: str, scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        layer, head = np.argwhere(~np.isfinite(scores))[0]
        raise HeadflowError(f"ranking {name!r}: the score of layer {layer}, head {head} is not a finite number; run this model in float32 or bfloat16")
    return np.asarray(scores, float)
