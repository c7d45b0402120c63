"""One example, captured: all that masked runs need, taken from a single forward of the stock model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from headflow.models.lvlm import LVLM


@dataclass
class Capture:
    """A picture and a question as the model sees them.

    The *prefix* is every token up to the end of the image span, the *suffix* every token after it.

    Attributes:
        lvlm: the model.
        question: the user's text.
        picture: the picture, RGB.
        input_ids: the prompt's token ids.
        pieces: the text of each token.
        roles: role of each token (METHOD: system, image, question, role, final).
        image: the image span, first to last image position.
        embeddings: input of the text model, pictures merged in.
        position_ids: positions as the model set them; M-RoPE has a leading axis.
        keys, values: per layer, of the prefix, after RoPE.
        logits: stock logits at the last position, float32.
        vision: mean of the vision tower's last hidden states, float32: how the picture looks before any language.
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
    vision: Float[Tensor, " features"]

    @property
    def prefix(self) -> int:
        """Tokens up to the end of the image span."""
        return self.image.stop

    @property
    def suffix(self) -> int:
        """Tokens after the image span."""
        return len(self.input_ids) - self.image.stop

    @property
    def image_embeddings(self) -> Float[Tensor, "image hidden"]:
        """The image tokens as the projector hands them to the text model."""
        return self.embeddings[0, self.image]

    def image_keys_values(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the image span, per layer ``[kv_heads, image, head_dim]``."""
        return [k[:, self.image] for k in self.keys], [v[:, self.image] for v in self.values]

    def first_token(self, answer: str) -> int:
        """Id of the first token of ``answer`` after this prompt."""
        return self.lvlm.answer_token(self.question, answer)

    def greedy_token(self) -> int:
        """The stock model's own first answer token."""
        return int(torch.argmax(self.logits))
