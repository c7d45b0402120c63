"""Where on the picture a head looks, and where what it passes on comes from.

Two maps over the image tokens for each head: its *attention* in the stock model, and its *attribution*, what each token does to the target through this head
alone. The second is the head's part of :func:`headflow.local_differences.token_effects`: the exact change of the head's output when the token turns from the
baseline to real, times the slope of the target by that output.

It is averaged over corners of the cube of all tokens with every share of them real, from none to all, as Shapley values are (G. Owen, *Multilinear
extensions of games*, Management Science 18, 1972). Tokens of one object stand in for each other: with half of all tokens real the answer hardly suffers, and
an average over such corners alone (Banzhaf values) says of every token that it adds next to nothing. Over all shares the maps add up, over tokens and heads
and but for what is lost by taking slopes, to the whole effect of the picture.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from headflow.ablation import BatchSize
from headflow.attribution.masks import sample_corners
from headflow.components import ImageTokens
from headflow.local_differences import token_effects
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.models.features import watch_image_attention
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS
from headflow.tables.schema import Table
from headflow.targets import Kind, Target

Head = tuple[int, int]
_AT_ONCE = 1 << 24  # numbers (corners × heads × tokens) that are held at a time


def attention_maps(capture: Capture) -> tuple[Float[np.ndarray, "layers heads image"], Float[np.ndarray, "layers heads image"]]:
    """Attention weight of every head of the stock model on every image token, 0..1; full attention is held one layer at a time.

    Layers are those that read the picture.

    Returns:
        That of the final prompt token, and the mean over all tokens after the picture (all tokens where it stands in no sequence).
    """
    model = capture.lvlm
    at = capture.roles.index("final") - len(capture.roles)
    final = np.zeros((model.layers, model.heads, capture.key_image.stop - capture.key_image.start), np.float32)
    suffix = np.zeros_like(final)

    def take(layer: int, weights: Float[torch.Tensor, "heads suffix image"]) -> None:
        final[layer], suffix[layer] = weights[:, at].cpu().numpy(), weights.mean(1).cpu().numpy()

    watch_image_attention(capture, take)
    return final, suffix


def attribution_maps(
    capture: Capture, *, corners: int = 32, seed: int = 0, baseline: Baseline | str = "blank", target: Target | Kind | None = None,
    batch_size: BatchSize = "auto",
) -> Float[np.ndarray, "layers heads image"]:  # fmt: skip
    """What each image token does to the target through each head, in target units.

    Args:
        capture, baseline, target, batch_size: as for :func:`headflow.ablation.run_masks`.
        corners: states of all image tokens over which the effects are averaged, in complementary pairs.
        seed: of the corners.
    """
    components = each_token(capture)
    masks = sample_corners(1, len(components.groups), corners, estimand="shapley", seed=seed)[:, 0]
    total = np.zeros((capture.lvlm.layers, capture.lvlm.heads, len(components.groups)))
    step = max(1, _AT_ONCE // total.size)
    for start in range(0, len(masks), step):
        _, effects = token_effects(
            capture, masks[start : start + step], components=components, baseline=baseline, target=target, batch_size=batch_size, by_head=True
        )
        total += effects.sum(0, dtype=float)
    return (total / len(masks)).astype(np.float32)


def each_token(capture: Capture) -> ImageTokens:
    """Every token of the image span by itself."""
    image = capture.key_image
    groups = torch.zeros(image.stop - image.start, capture.key_positions, dtype=torch.bool)
    groups[:, image] = torch.eye(len(groups), dtype=torch.bool)
    return ImageTokens(groups)


def means_over(groups: Sequence[Sequence[Head]], layers: int, heads: int) -> Float[np.ndarray, "groups layers heads"]:
    """Weights that take the mean over the heads of each group."""
    weights = np.zeros((len(groups), layers, heads))
    for row, members in zip(weights, groups, strict=True):
        for layer, head in members:
            row[layer, head] += 1 / len(members)
    return weights


def averaged(weights: Float[np.ndarray, "groups layers heads"], maps: Float[np.ndarray, "layers heads image"]) -> Float[np.ndarray, "groups image"]:
    """The map of each group of heads."""
    return np.einsum("glh,lhi->gi", weights, maps)


Maps = tuple[Float[np.ndarray, "groups image"], Float[np.ndarray, "groups image"], Float[np.ndarray, "groups image"]]
"""Attention of the final token, mean attention of the text, attribution."""


def head_maps_table(found: Sequence[tuple[str, Maps, Float[np.ndarray, "image 4"]]], heads: Sequence[Head]) -> pl.DataFrame:
    """A HEAD_MAPS table from each example's id, maps and boxes (NaN = unknown)."""
    keys = [{"layer": layer, "head": head} for layer, head in heads]
    return _table(HEAD_MAPS, [({"id": name, **key}, place, maps, boxes) for name, maps, boxes in found for place, key in enumerate(keys)])


def cluster_maps_table(found: Sequence[tuple[int, int, str, int, Maps, Float[np.ndarray, "image 4"]]]) -> pl.DataFrame:
    """A CLUSTER_MAPS table from cluster, rank, the example's id, the cluster's place in the maps, maps and boxes."""
    return _table(CLUSTER_MAPS, [({"cluster": cluster, "rank": rank, "id": name}, place, maps, boxes) for cluster, rank, name, place, maps, boxes in found])


def _table(table: Table, rows: list[tuple[dict, int, Maps, np.ndarray]]) -> pl.DataFrame:
    frames = []
    for key, place, (final, suffix, attribution), boxes in rows:
        columns = {name: [value] * len(boxes) for name, value in key.items()}
        columns |= {"token": np.arange(len(boxes)), "attention": final[place], "attention_text": suffix[place], "attribution": attribution[place]}
        columns |= {side: boxes[:, number] for number, side in enumerate(("left", "top", "right", "bottom"))}
        frames.append(pl.DataFrame(columns).cast({name: column.dtype for name, column in table.columns.items()}))
    schema = {name: column.dtype for name, column in table.columns.items()}
    whole = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
    return whole.select(*schema).with_columns(pl.col("left", "top", "right", "bottom").fill_nan(None))
