"""One example, captured: all that masked runs need, taken from a single forward of the stock model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from headflow.models.lvlm import LVLM
    from headflow.suffix_pass import Mode


@dataclass(repr=False)
class Capture:
    """A picture and a question as the model sees them.

    The *prefix* is what masked runs share: every token up to the end of the image span, where no later token reaches back
    (``mode`` "shared"); nothing, where one does ("recomputed") and where the picture stands in no sequence ("cross"). The
    *suffix* is every token that may be cut off from the picture: those after the image span; under "cross", all of them.

    Attributes:
        lvlm: the model.
        question: the user's text.
        picture: the picture, RGB.
        input_ids: the token ids of the prompt, and of the answer up to its last token but one (the last is only predicted).
        answer_ids: token ids of the answer that is fed to the model; empty if there is none.
        pieces: the text of each token.
        roles: role of each token (METHOD: system, image, question, role, final, answer).
        image: the image span, first to last image position.
        embeddings: input of the text model, pictures merged in.
        position_ids: positions as the model set them; M-RoPE has a leading axis.
        keys, values: per decoder layer, after RoPE, up to the end of the image span; under cross-attention those of the
            picture, and none in the other layers.
        logits: stock logits at the last prompt position, float32.
        answer_logits: stock logits that predict each token of the answer, float32; its first row is ``logits``.
        image_embeddings: the picture as the projector hands it to the text model.
        vision: mean of the vision tower's last hidden states, float32: how the picture looks before any language.
        mode: how masked runs treat the prefix.
        visible: per decoder layer what the stock model shows to each query; kept where everything is recomputed.
        extras: further inputs of the text model, token by token.
        tiling: how the processor cut the picture into tiles or patches.
    """

    lvlm: LVLM
    question: str
    picture: Image.Image
    input_ids: list[int]
    pieces: list[str]
    roles: list[str]
    image: slice
    embeddings: Float[Tensor, "1 positions hidden"]
    position_ids: Int[Tensor, "*axes 1 positions"]
    keys: list[Float[Tensor, "kv_heads prefix head_dim"]]
    values: list[Float[Tensor, "kv_heads prefix head_dim"]]
    logits: Float[Tensor, " vocabulary"]
    answer_logits: Float[Tensor, "answer vocabulary"]
    vision: Float[Tensor, " features"]
    image_embeddings: Float[Tensor, "image hidden"]
    answer_ids: list[int] = field(default_factory=list)
    mode: Mode = "shared"
    visible: list[Bool[Tensor, "1 1 positions positions"]] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    tiling: str = ""

    def __repr__(self) -> str:
        answer = f", answer of {len(self.answer_ids)} tokens" if self.answer_ids else ""
        image = self.image.stop - self.image.start
        return f"Capture({self.question!r}, {len(self.input_ids)} tokens, {image} of them the picture{answer}, {self.mode} prefix, {self.lvlm!r})"

    @property
    def prefix(self) -> int:
        """Tokens that masked runs share."""
        return self.image.stop if self.mode == "shared" else 0

    @property
    def suffix(self) -> int:
        """Tokens that gates act on: those after the image span; all tokens where the picture stands in no sequence."""
        return len(self.input_ids) - (0 if self.mode == "cross" else self.image.stop)

    @property
    def computed(self) -> int:
        """Tokens that every masked run goes through."""
        return len(self.input_ids) - self.prefix

    @property
    def predicts(self) -> int:
        """Positions, counted from the end, whose logits are wanted: one for each token of the answer, or the last."""
        return max(1, len(self.answer_ids))

    @property
    def key_image(self) -> slice:
        """Where the picture's keys stand among the ``key_positions`` keys that a gate may name: the image span of the prompt, or
        all of them under cross-attention."""
        return slice(0, self.key_positions) if self.mode == "cross" else self.image

    @property
    def key_positions(self) -> int:
        """Keys that a gate may name."""
        return self.keys[self.lvlm.image_layers[0]].shape[1] if self.mode == "cross" else len(self.input_ids)

    def layout(self) -> str:
        """Fingerprint of where the picture's keys stand: place, number, positions (M-RoPE), tiles, the structural tokens between
        them and the text before them. Keys of two captures may take each other's place only where it is the same."""
        parts: list[object] = [self.mode, self.image.start, self.image.stop, self.key_positions if self.mode == "cross" else 0]
        parts += [self.position_ids[..., self.image].tolist(), self.input_ids[: self.image.stop], self.tiling]
        parts += [(name, extra[:, self.image.stop - 1].tolist()) for name, extra in sorted(self.extras.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def image_keys_values(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the picture, per layer that reads it ``[kv_heads, image, head_dim]``."""
        if self.mode == "cross":
            return tuple([all_layers[layer] for layer in self.lvlm.image_layers] for all_layers in (self.keys, self.values))
        return [k[:, self.image] for k in self.keys], [v[:, self.image] for v in self.values]

    def first_token(self, answer: str) -> int:
        """Id of the first token of ``answer`` after this prompt."""
        return self.lvlm.answer_token(self.question, answer)

    def greedy_token(self) -> int:
        """The stock model's own first answer token."""
        return int(torch.argmax(self.logits))
