"""Many questions about one image in one sequence.

Prompts about one image share their beginning: always the image, often some words ("What is the colour of the"). Laid out as a tree in which
every token stands once, attending to its ancestors alone and counting its position from the root, they cost one forward pass over the
distinct tokens and give exactly the logits that separate passes would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from headflow.models.embedded.network import IMAGE, PAD

UNLABELLED = -100
"""Label of a token whose successor is not learnt."""


@dataclass(frozen=True)
class Strand:
    """What follows the image in one prompt: token ids, the token to be predicted after each (or ``UNLABELLED``), and its loss weight."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Packed:
    """A batch of trees, padded to the largest."""

    tokens: Int[Tensor, "batch length"]
    positions: Int[Tensor, "batch length"]
    visible: Bool[Tensor, "batch 1 length length"]
    """Whether a query (row) may attend to a key (column)."""
    labels: Int[Tensor, "batch length"]
    weights: Float[Tensor, "batch length"]

    @property
    def labelled(self) -> Bool[Tensor, "batch length"]:
        """Where something is to be predicted."""
        return self.labels != UNLABELLED


class TokenTree:
    """Prompts with a common start, each token once; a node's parent always stands before it."""

    def __init__(self, prefix: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.labels: list[int] = []
        self.weights: list[float] = []
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}
        self._trunk = -1
        for token in prefix:
            self._trunk = self._append(self._trunk, token)

    def add(self, strand: Strand) -> list[int]:
        """Merge one strand in; returns the nodes of its tokens.

        Raises:
            ValueError: another strand has the same beginning but another label for it.
        """
        node, nodes = self._trunk, []
        for token, label, weight in zip(strand.tokens, strand.labels, strand.weights, strict=True):
            child = self._children.get((node, token))
            node = child if child is not None else self._append(node, token)
            nodes.append(node)
            if label != UNLABELLED:
                if self.labels[node] not in (UNLABELLED, label):
                    raise ValueError(f"token {token} at position {self.positions[node]} has two labels, {self.labels[node]} and {label}")
                self.labels[node] = label
                self.weights[node] += weight
        return nodes

    def visible(self) -> Bool[np.ndarray, "length length"]:
        """Each token's ancestors and itself."""
        visible = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return visible

    def _append(self, parent: int, token: int) -> int:
        node = len(self.tokens)
        self.tokens.append(token)
        self.positions.append(self.positions[parent] + 1 if parent >= 0 else 0)
        self.labels.append(UNLABELLED)
        self.weights.append(0.0)
        self._parents.append(parent)
        self._children[parent, token] = node
        return node


def pack(prefix: Sequence[int], strands: Sequence[Sequence[Strand]]) -> Packed:
    """One tree for each image: ``strands[i]`` follow image i, ``prefix`` goes before and holds its image tokens."""
    trees = [TokenTree(prefix) for _ in strands]
    for tree, branches in zip(trees, strands, strict=True):
        for strand in branches:
            tree.add(strand)
    shape = len(trees), max(len(tree.tokens) for tree in trees)
    tokens, positions, labels = np.full(shape, PAD), np.zeros(shape, np.int64), np.full(shape, UNLABELLED)
    weights = np.zeros(shape, np.float32)
    visible = np.broadcast_to(np.eye(shape[1], dtype=bool), (*shape, shape[1])).copy()  # padding sees itself: softmax needs something
    for i, tree in enumerate(trees):
        length = len(tree.tokens)
        tokens[i, :length], positions[i, :length] = tree.tokens, tree.positions
        labels[i, :length], weights[i, :length] = tree.labels, tree.weights
        visible[i, :length, :length] = tree.visible()
    return Packed(*map(torch.from_numpy, (tokens, positions, visible[:, None], labels, weights)))


def labelled_logits(
    network: LlavaForConditionalGeneration, features: Float[Tensor, "batch patches width"], packed: Packed
) -> Float[Tensor, "labelled vocabulary"]:
    """Logits of the token after each labelled one, in reading order, given the vision tower's features of each image."""
    images = network.model.multi_modal_projector(features)
    start = int((packed.tokens[0] == IMAGE).nonzero()[0, 0])
    embeddings = network.get_input_embeddings()(packed.tokens)
    merged = torch.cat([embeddings[:, :start], images, embeddings[:, start + images.shape[1] :]], dim=1)
    decoder = network.get_decoder()
    hidden = decoder(inputs_embeds=merged, attention_mask=packed.visible, position_ids=packed.positions, use_cache=False).last_hidden_state
    return network.lm_head(hidden[packed.labelled])
