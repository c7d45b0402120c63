"""What a model holds of a picture after it has described it, and which part of that is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from headflow.errors import HeadflowError
from headflow.memory import is_out_of_memory
from headflow.models.lvlm import LVLM, Picture, _explained, _OneRun
from headflow.prompts import image_span


@dataclass(repr=False)
class Context:
    """Keys and values of a conversation so far, after RoPE.

    Attributes:
        lvlm: the model.
        keys, values: per decoder layer; in layers of cross-attention those of the picture, which stands in no sequence there.
        ids: token ids of the prompt and of what the model has said, one for each position of the sequence.
        prompt: tokens of the prompt.
        image: the image span of the sequence; empty where the conversation has no picture.
        position_ids: positions of the sequence as the model set them; M-RoPE has a leading axis.
        candidates: which of the picture's places may be kept; all of the image span, structural tokens between them included, as those have seen
            the picture too. Under cross-attention the keys of the picture that the model shows at all.
    """

    lvlm: LVLM
    keys: list[Float[Tensor, "kv_heads positions head_dim"]]
    values: list[Float[Tensor, "kv_heads positions head_dim"]]
    ids: list[int]
    prompt: int
    image: slice
    position_ids: Int[Tensor, "*axes 1 positions"]
    candidates: Bool[Tensor, " image"]

    def __repr__(self) -> str:
        return f"Context({self.prompt} tokens of the prompt, {len(self.candidates)} of the picture, {len(self.ids) - self.prompt} said)"

    @property
    def cross(self) -> bool:
        """Whether the picture is read by cross-attention."""
        return self.lvlm.image_layers is not None

    @property
    def following(self) -> int:
        """Position that comes next: one past the largest (of all axes)."""
        return int(self.position_ids.amax()) + 1 if self.position_ids.shape[-1] else 0

    def before(self) -> Bool[Tensor, " positions"]:
        """The tokens before the picture; under cross-attention up to the token that stands for it."""
        return torch.arange(len(self.ids)) < (self.image.stop if self.cross else self.image.start)

    def query(self) -> Bool[Tensor, " positions"]:
        """The query tokens: every token of the prompt that is not the picture's. Under cross-attention no token of the sequence is."""
        places = torch.arange(len(self.ids))
        inside = (places >= self.image.start) & (places < self.image.stop)
        return (places < self.prompt) & (torch.tensor(self.cross) | ~inside)

    def said(self) -> Bool[Tensor, " positions"]:
        """The tokens that the model has said."""
        return torch.arange(len(self.ids)) >= self.prompt


@dataclass(frozen=True)
class Kept:
    """What stays of a context.

    Attributes:
        text: tokens of the sequence that stay, in every layer; none of the picture's.
        image: places of the picture that stay, for each layer that reads it; the same number in every layer.
    """

    text: Bool[Tensor, " positions"]
    image: Bool[Tensor, "layers image"]

    def check(self, context: Context) -> None:
        """
        Raises:
            HeadflowError: it does not fit the context, or layers keep different numbers of tokens.
        """
        wanted = (len(context.ids),), (context.lvlm.layers, len(context.candidates))
        if (tuple(self.text.shape), tuple(self.image.shape)) != wanted:
            raise HeadflowError(
                f"compression: what stays has shapes {tuple(self.text.shape)} and {tuple(self.image.shape)}, the context has {wanted[0]} and {wanted[1]}"
            )
        if bool((self.image & ~context.candidates).any()) or (not context.cross and bool(self.text[context.image].any())):
            raise HeadflowError("compression: places of the picture stay that are not its own, or are listed as text")
        if len(set(self.image.sum(1).tolist())) > 1:
            raise HeadflowError("compression: every layer must keep the same number of image tokens")

    @property
    def tokens(self) -> int:
        """Context tokens: those that stay in any one layer; under cross-attention in one layer of each kind."""
        return int(self.text.sum()) + int(self.image[0].sum()) if len(self.image) else int(self.text.sum())

    def places(self, context: Context, layer: int) -> Int[Tensor, " kept"]:
        """Where what stays in a decoder layer stands among the context's keys there, ascending."""
        if not context.cross:
            stays = self.text.clone()
            stays[context.image] = self.image[layer]
        else:
            reading = context.lvlm.image_layers
            stays = self.image[reading.index(layer)] if layer in reading else self.text
        return stays.nonzero()[:, 0]

    def bytes(self, context: Context) -> int:
        """Memory of the keys and values that stay."""
        return sum(
            len(self.places(context, layer)) * (keys.shape[0] * keys.shape[2] * keys.element_size() + values.shape[0] * values.shape[2] * values.element_size())
            for layer, (keys, values) in enumerate(zip(context.keys, context.values, strict=True))
        )


def everything(context: Context, *, said: bool = False) -> Kept:
    """The whole prompt with its picture, and where wanted what the model has said."""
    return Kept(
        context.query() | (context.said() if said else torch.zeros(len(context.ids), dtype=torch.bool)), context.candidates.expand(context.lvlm.layers, -1)
    )


def nothing_seen(context: Context, text: Bool[Tensor, " positions"]) -> Kept:
    """Some of the text, and no image token."""
    return Kept(text, torch.zeros(context.lvlm.layers, len(context.candidates), dtype=torch.bool))


@torch.no_grad()
def take_context(lvlm: LVLM, picture: Picture, question: str, said: Sequence[int] = ()) -> Context:
    """Run the stock model over a prompt with a picture and over what it has said, and keep all keys and values.

    Args:
        said: token ids that the model has said, without the one that ends them.

    Raises:
        HeadflowError: the picture or the question cannot be put to the model, or memory runs out.
    """
    inputs = lvlm.inputs([picture], question)
    ids = inputs["input_ids"][0].tolist()
    span = image_span(ids, lvlm.image_token)
    run = _OneRun(lvlm, inputs)
    try:
        with _explained():
            run.prompt()
        run.go_on(said)
    except torch.OutOfMemoryError as error:
        raise HeadflowError(
            f"out of memory in the stock forward of one conversation ({len(ids) + len(said)} tokens): use a smaller picture or bfloat16"
        ) from error
    keys, values = _cached(run.cache)
    candidates = torch.ones(span.stop - span.start, dtype=torch.bool)
    if lvlm.image_layers is not None:
        candidates = _shown(inputs, keys[lvlm.image_layers[0]].shape[1])
    return Context(lvlm, keys, values, [*ids, *said], len(ids), span, run.positions, candidates)


@torch.no_grad()
def take_text(like: Context, ids: Sequence[int]) -> Context:
    """The context of a conversation without a picture, by the stock model; positions are its own.

    Args:
        like: a context of the same model, from which an empty one takes its shapes.
        ids: the text.

    Raises:
        HeadflowError: memory runs out.
    """
    lvlm, axes = like.lvlm, like.position_ids.shape[:-2]
    positions = torch.arange(len(ids), device=like.position_ids.device).expand(*axes, 1, -1)
    rest = {"ids": list(ids), "prompt": len(ids), "image": slice(0, 0), "position_ids": positions, "candidates": torch.zeros(0, dtype=torch.bool)}
    crossing = lvlm.image_layers or ()
    if not ids:
        return Context(lvlm, [keys[:, :0] for keys in like.keys], [values[:, :0] for values in like.values], **rest)
    cache, tokens = DynamicCache(), torch.tensor([list(ids)], device=lvlm.device)
    lvlm._forget_positions()
    options: dict[str, Any] = {"logits_to_keep": 1}
    try:
        lvlm.model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, **options)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise HeadflowError(f"out of memory in a text of {len(ids)} tokens: use bfloat16") from error
    # Layers of cross-attention are left out where there is no picture.
    keys, values = _cached(cache, [like.keys[layer] if layer in crossing else None for layer in range(lvlm.decoder_layers)], [
        like.values[layer] if layer in crossing else None for layer in range(lvlm.decoder_layers)
    ])  # fmt: skip
    return Context(lvlm, keys, values, **rest)


def _cached(cache: DynamicCache, empty_keys: Sequence[Tensor | None] = (), empty_values: Sequence[Tensor | None] = ()) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of the one sequence in a cache; of layers that are named as empty none."""
    parts = []
    for name, empties in (("keys", empty_keys), ("values", empty_values)):
        empties = empties or [None] * len(cache.layers)
        parts.append([getattr(cache.layers[layer], name)[0] if empty is None else empty[:, :0] for layer, empty in enumerate(empties)])
    return parts[0], parts[1]


def _shown(inputs: dict[str, Tensor], keys: int) -> Bool[Tensor, " keys"]:
    """Which keys of a picture that is read by cross-attention its prompt's last token is shown: those of tiles that exist."""
    mask = inputs.get("cross_attention_mask")
    if mask is None:
        return torch.ones(keys, dtype=torch.bool)
    tiles = mask[0, -1].flatten().bool().cpu()
    return tiles.repeat_interleave(keys // len(tiles))
