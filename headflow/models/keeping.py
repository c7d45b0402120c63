"""Only some of the picture's tokens: inputs for ``generate`` from which the others are gone.

Two interventions go by this name, and they differ, as image tokens take in what stands before them in the picture:

- ``removed``: the decoder never sees the other tokens; their embeddings are left out of the sequence, so that no token of the picture has
  taken anything in from them.
- ``closed``: the whole picture goes through the decoder, and then the keys and values of the other tokens are dropped: the text cannot see
  them, but the tokens that stay may carry something of them. It is what :class:`headflow.gates.Gate` calls reading nothing.

Structural tokens inside the image span (row breaks, tile markers, newline features) always stay and are no image tokens here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from headflow.errors import HeadflowError
from headflow.models.capture import Capture
from headflow.models.features import watch_image_attention
from headflow.models.lvlm import LVLM, Picture, _explained
from headflow.prompts import image_span

How = Literal["removed", "closed"]
Positions = Literal["kept", "renumbered"]
QUESTION = "What is the main object in the image? Answer with one word."
# Inputs of the outer model that say of each token what it is, and that its masks are made of.
_TYPES = "token_type_ids"


class KeptInputs(Mapping[str, Any]):
    """Inputs for ``lvlm.model.generate(**inputs)``; generated tokens begin at ``inputs["input_ids"].shape[1]``.

    They may be used any number of times: each use gets a cache of its own. One sequence; greedy decoding and sampling, no beams.

    Attributes:
        kept: which places of the image span stay, structural tokens included.
        image_tokens: image tokens of the whole picture.
        image_tokens_kept: those of them that stay.
    """

    def __init__(
        self, input_ids: Int[Tensor, "1 tokens"], position_ids: Int[Tensor, "*axes 1 tokens"], keys: Sequence[Float[Tensor, "kv_heads past head_dim"]],
        values: Sequence[Float[Tensor, "kv_heads past head_dim"]], kept: Bool[np.ndarray, " image"], selectable: Bool[np.ndarray, " image"],
    ) -> None:  # fmt: skip
        self._inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "position_ids": position_ids}
        self._past = list(zip(keys, values, strict=True))
        self.kept = kept
        self.image_tokens, self.image_tokens_kept = int(selectable.sum()), int((kept & selectable).sum())

    def __repr__(self) -> str:
        return f"KeptInputs({self.image_tokens_kept} of {self.image_tokens} image tokens, {self._inputs['input_ids'].shape[1]} tokens in all)"

    def __getitem__(self, name: str) -> Any:
        if name != "past_key_values":
            return self._inputs[name]
        cache = DynamicCache()  # generate writes into it
        for layer, (keys, values) in enumerate(self._past):
            cache.update(keys[None], values[None], layer)
        return cache

    def __iter__(self) -> Iterator[str]:
        return iter((*self._inputs, "past_key_values"))

    def __len__(self) -> int:
        return len(self._inputs) + 1


@dataclass
class Merged:
    """One prompt as the decoder is given it, before any of its layers has run.

    Attributes:
        input_ids: token ids of the prompt.
        embeddings: the decoder's input, picture merged in.
        position_ids: positions as the model set them; M-RoPE has a leading axis.
        image: the image span.
        selectable: which places of the image span are image tokens; the rest is structural.
        types: token types, for models whose masks go by them.
        deepstack: picture features that enter the first layers too, for each image token id of the prompt (Qwen3-VL).
        pictured: the tokens that these belong to.
    """

    input_ids: Int[Tensor, "1 tokens"]
    embeddings: Float[Tensor, "1 tokens hidden"]
    position_ids: Int[Tensor, "*axes 1 tokens"]
    image: slice
    selectable: Bool[np.ndarray, " image"]
    types: Int[Tensor, "1 tokens"] | None = None
    deepstack: list[Float[Tensor, "pictured hidden"]] | None = None
    pictured: Bool[Tensor, "1 tokens"] | None = None

    def places(self, kept: Bool[np.ndarray, "batch image"]) -> Int[Tensor, "batch fewer"]:
        """Where in the prompt the tokens stand that stay: all but image tokens that are not ``kept``.

        Raises:
            HeadflowError: rows keep different numbers of tokens.
        """
        stays = np.ones((len(kept), self.input_ids.shape[1]), bool)
        stays[:, self.image] = kept | ~self.selectable
        if len(set(stays.sum(1))) > 1:
            raise HeadflowError("sequences that run together must keep the same number of image tokens")
        return torch.from_numpy(np.stack([row.nonzero()[0] for row in stays])).to(self.input_ids.device)


def keep_tokens(
    lvlm: LVLM, image: Picture, k: float, *, question: str = QUESTION, by: Literal["attention"] | Float[np.ndarray, " image"] = "attention",
    how: How = "removed", positions: Positions = "kept",
) -> KeptInputs:  # fmt: skip
    """Inputs for ``lvlm.model.generate`` with only the best ``k`` percent of the image tokens.

    The prompt up to the end of the picture is run here and handed over as a cache, the text after it is left to ``generate``. At k = 100
    the generated tokens are those of the stock model.

    Args:
        lvlm: the model.
        image: the picture.
        k: share of the image tokens that stay, percent; to the nearest number of tokens, one at least.
        question: the user's text.
        by: what orders the image tokens: ``"attention"``, the final prompt token's attention to each, mean over layers and heads of the stock
            model (which costs a stock run), or a score for every place of the image span, the highest first; scores of structural tokens are
            not read. With scores, the decoder runs over the tokens that stay alone.
        how: ``"removed"``: the other tokens are left out of the sequence; ``"closed"``: they go through the decoder, and then their keys and
            values are dropped: the same as a gate that closes their edges to all text.
        positions: ``"kept"``: each token keeps its position, so that nothing but the missing keys changes; ``"renumbered"``: positions are
            counted anew without gaps, as in a prompt with a smaller picture (``how="removed"`` only, and not where positions have several
            axes).

    Sliding windows, where a text model has them, count the tokens that stay: where a window is shorter than the prompt, removed tokens make
    room in it.

    Raises:
        HeadflowError: an argument is out of range; the model reads the picture by cross-attention (Mllama), so that there is no token to
            remove; ``"closed"`` where the prompt before the text depends on the text (PaliGemma); see also :meth:`LVLM.capture`.
    """
    for name, value, allowed in (("how", how, get_args(How)), ("positions", positions, get_args(Positions))):
        if value not in allowed:
            raise HeadflowError(f"keep_tokens: {name} = {value!r}: must be one of {', '.join(allowed)}")
    if isinstance(by, str) and by != "attention":
        raise HeadflowError(f"keep_tokens: by = {by!r}: must be 'attention', or a score for every place of the image span")
    if how == "closed" and positions == "renumbered":
        raise HeadflowError("keep_tokens: how='closed' keeps keys that have been computed at their own positions; use positions='kept', or how='removed'")
    check_percent(k)
    if lvlm.prefix_mode == "cross":
        raise HeadflowError(
            f"keep_tokens: {type(lvlm.model).__name__} reads the picture by cross-attention, so there is no image token in its sequence; close keys with gates"
        )
    capture = lvlm.capture(image, question) if lvlm.prefix_mode is None or isinstance(by, str) else None
    if how == "closed" and lvlm.prefix_mode != "shared":
        raise HeadflowError(
            f"keep_tokens: the picture's keys in {type(lvlm.model).__name__} depend on the text after it, so they cannot be dropped from a cache; "
            "use how='removed'"
        )
    merged = merge(lvlm, image, question)
    scores = image_token_attention(capture).cpu().numpy() if isinstance(by, str) else np.asarray(by, float)
    kept = best(scores, merged.selectable, k)[None]
    places = merged.places(kept)
    if positions == "renumbered" and merged.position_ids.ndim > 2:
        raise HeadflowError(
            f"keep_tokens: {type(lvlm.model).__name__} gives each image token a row and a column, and the text goes on from the larger; these cannot be "
            "numbered anew; use positions='kept'"
        )
    ids, position_ids = merged.input_ids[:, places[0]], _positions(merged, places, positions)
    keys, values = _closed(lvlm, merged, places[0], capture) if how == "closed" else _removed(lvlm, merged, places, position_ids)
    return KeptInputs(ids, position_ids - _shift(lvlm, ids, position_ids), keys, values, (kept | ~merged.selectable)[0], merged.selectable)


def check_percent(k: float) -> None:
    """Raise HeadflowError unless ``k`` is a percentage above 0."""
    if not 0 < k <= 100:
        raise HeadflowError(f"keep_tokens: k = {k!r}: must be above 0 and at most 100, in percent of the image tokens")


def count_of(k: float, tokens: int) -> int:
    """Image tokens in ``k`` percent of ``tokens``: the nearest number, one at least; none at k = 0."""
    return 0 if k == 0 else min(tokens, max(1, int(tokens * k / 100 + 0.5)))


def best(scores: Float[np.ndarray, " image"], selectable: Bool[np.ndarray, " image"], k: float) -> Bool[np.ndarray, " image"]:
    """The image tokens of highest score, ``k`` percent of them; of equal ones, those nearer the start of the picture.

    Raises:
        HeadflowError: scores of another number of places, or one of an image token that is not a number.
    """
    if scores.shape != selectable.shape:
        raise HeadflowError(f"keep_tokens: {scores.shape} scores for an image span of {len(selectable)} places (structural tokens between them included)")
    if np.isnan(scores[selectable]).any():
        place = int(np.flatnonzero(selectable & np.isnan(scores))[0])
        raise HeadflowError(f"keep_tokens: the score of the image token at place {place} of the image span is not a number")
    places = np.flatnonzero(selectable)
    first = places[np.argsort(-scores[places], kind="stable")[: count_of(k, len(places))]]
    kept = np.zeros(len(selectable), bool)
    kept[first] = True
    return kept


class _DecoderReached(Exception):
    """Stops a forward where the decoder would begin."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        super().__init__("the decoder's inputs")
        self.inputs = inputs


@torch.no_grad()
def merge(lvlm: LVLM, image: Picture, question: str) -> Merged:
    """The decoder's inputs for one prompt; only the vision tower and the projector run.

    Raises:
        HeadflowError: the picture or the question cannot be put to the model.
    """
    if not question.strip():
        raise HeadflowError("the question is empty")
    inputs = lvlm.inputs([image], question)

    def stop(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        raise _DecoderReached(kwargs)

    handle = lvlm.decoder.register_forward_pre_hook(stop, with_kwargs=True)
    lvlm._forget_positions()
    given: dict[str, Any] = {}
    try:
        with _explained():
            lvlm.model(**inputs, past_key_values=DynamicCache(), use_cache=True)
    except _DecoderReached as reached:
        given = reached.inputs
    finally:
        handle.remove()
    ids, embeddings, positions = inputs["input_ids"], given["inputs_embeds"], given.get("position_ids")
    if positions is None:
        positions = torch.arange(ids.shape[1], device=embeddings.device)[None]
    span = image_span(ids[0].tolist(), lvlm.image_token)
    selectable = image_tokens(lvlm, ids[0, span], embeddings[0, span])
    return Merged(ids, embeddings, positions, span, selectable, inputs.get(_TYPES), given.get("deepstack_visual_embeds"), given.get("visual_pos_masks"))


def image_tokens(lvlm: LVLM, ids: Int[Tensor, " image"], embeddings: Float[Tensor, "image hidden"]) -> Bool[np.ndarray, " image"]:
    """Which places of an image span are image tokens: not row breaks or tile markers, nor the newline features that some models (LLaVA-NeXT,
    LLaVA-OneVision) put at the end of each row under the id of an image token."""
    found = (ids == lvlm.image_token).to(embeddings.device)
    for name, weight in lvlm.model.named_parameters():
        if name.endswith("image_newline") and not weight.is_meta:
            found &= ~(embeddings == weight.to(embeddings)).all(-1)
    return found.cpu().numpy()


def selectable_tokens(capture: Capture) -> Bool[np.ndarray, " image"]:
    """:func:`image_tokens` of an example; under cross-attention every key of the picture is one."""
    if capture.mode == "cross":
        return np.ones(capture.key_positions, bool)
    ids = torch.tensor(capture.input_ids[capture.image], device=capture.embeddings.device)
    return image_tokens(capture.lvlm, ids, capture.embeddings[0, capture.image])


@torch.no_grad()
def image_token_attention(capture: Capture, queries: Literal["final", "suffix"] = "final") -> Float[Tensor, " image"]:
    """Attention of the stock model to each place of the image span, mean over layers and heads, 0..1; layers are held one at a time.

    Args:
        capture: the example.
        queries: that of the last prompt token, or the mean over all prompt tokens after the image span.
    """
    total = torch.zeros(capture.key_image.stop - capture.key_image.start)
    roles = capture.roles[-capture.suffix :]
    asked = torch.tensor([role == "final" if queries == "final" else role != "answer" for role in roles])

    def take(layer: int, weights: Float[Tensor, "heads suffix image"]) -> None:
        total.add_(weights[:, asked.to(weights.device)].mean((0, 1)).cpu())

    watch_image_attention(capture, take)
    return total / capture.lvlm.layers


@torch.no_grad()
def removed_logits(
    lvlm: LVLM, merged: Merged, kept: Bool[np.ndarray, "batch image"], fed: Sequence[int] = (), positions: Positions = "kept"
) -> Float[Tensor, "batch answer vocabulary"]:
    """Logits of prompts from which all image tokens but ``kept`` are gone, at the end of the prompt and at each token of an answer.

    Args:
        kept: image tokens that stay; the same number in every row.
        fed: token ids of an answer that is fed to the model.
    """
    places = merged.places(kept)
    position_ids = _positions(merged, places, positions)
    output, cache = run_removed(lvlm, merged, places, position_ids)
    logits = output[:, -1:].float()
    if not fed:
        return logits
    tokens = torch.tensor([list(fed)], device=merged.input_ids.device).expand(len(kept), -1)
    after = position_ids[..., -1:] + torch.arange(1, len(fed) + 1, device=position_ids.device)
    answered = lvlm.model(input_ids=tokens, position_ids=after, past_key_values=cache, use_cache=True).logits
    return torch.cat([logits, answered.float()], 1)


@torch.no_grad()
def run_removed(
    lvlm: LVLM, merged: Merged, places: Int[Tensor, "batch fewer"], position_ids: Int[Tensor, "*axes batch fewer"], stop: int | None = None
) -> tuple[Float[Tensor, "batch 1 vocabulary"], DynamicCache]:
    """The stock model over the tokens at ``places`` alone, up to the ``stop``-th of them: logits of the last one, and the cache."""
    places = places[:, :stop]
    inputs: dict[str, Any] = {"inputs_embeds": merged.embeddings[0, places.to(merged.embeddings.device)], "position_ids": position_ids[..., :stop]}
    if merged.types is not None:
        inputs[_TYPES] = merged.types[0, places]
    cache = DynamicCache()
    lvlm._forget_positions()
    try:
        with _deepstack(lvlm, merged, places):
            return lvlm.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits, cache
    except torch.OutOfMemoryError as error:
        raise HeadflowError(f"out of memory with {places.shape[0]} prompts of {places.shape[1]} tokens: use a smaller picture or k, or bfloat16") from error


@contextmanager
def _deepstack(lvlm: LVLM, merged: Merged, places: Int[Tensor, "batch fewer"]) -> Iterator[None]:
    """Hand the decoder the picture features of its first layers, those of the tokens at ``places``: the outer model makes them from pixels alone."""
    if merged.deepstack is None:
        yield
        return
    pictured = merged.pictured[0][places.to(merged.pictured.device)]
    # The features go by the order of image tokens in the prompt, one row of the batch after the other.
    order = (merged.pictured[0].cumsum(0) - 1)[places.to(merged.pictured.device)][pictured]
    features = [layer[order.to(layer.device)] for layer in merged.deepstack]

    def add(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "visual_pos_masks": pictured, "deepstack_visual_embeds": features}

    handle = lvlm.decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


KeysValues = tuple[Sequence[Float[Tensor, "kv_heads past head_dim"]], Sequence[Float[Tensor, "kv_heads past head_dim"]]]


def _closed(lvlm: LVLM, merged: Merged, places: Int[Tensor, " fewer"], capture: Capture | None) -> KeysValues:
    """Keys and values of the tokens at ``places`` up to the end of the picture, when the whole picture has gone through the decoder."""
    stop, stay = merged.image.stop, places[places < merged.image.stop]
    if capture is None:
        every = torch.arange(stop, device=stay.device)[None]
        keys, values = _cached(run_removed(lvlm, merged, every, merged.position_ids[..., :stop])[1])
    else:
        keys, values = capture.keys, capture.values
    return [x[:, stay.to(x.device)] for x in keys], [x[:, stay.to(x.device)] for x in values]


def _removed(lvlm: LVLM, merged: Merged, places: Int[Tensor, "1 fewer"], position_ids: Int[Tensor, "*axes 1 fewer"]) -> KeysValues:
    """The same of a run over the tokens at ``places`` alone.

    Where later tokens reach back, of the whole prompt but its last token: ``generate`` runs that once more, and it sees all before it as here.
    """
    shared = lvlm.prefix_mode == "shared"
    before = int((places[0] < merged.image.stop).sum()) if shared else places.shape[1] - 1
    return _cached(run_removed(lvlm, merged, places, position_ids, stop=before if shared else None)[1], before)


def _cached(cache: DynamicCache, stop: int | None = None) -> KeysValues:
    """Keys and values of the one sequence in a cache, per layer ``[kv_heads, positions, head_dim]``."""
    return tuple([getattr(layer, name)[0, :, :stop] for layer in cache.layers] for name in ("keys", "values"))


def _positions(merged: Merged, places: Int[Tensor, "batch fewer"], positions: Positions) -> Int[Tensor, "*axes batch fewer"]:
    if positions == "renumbered":
        return (merged.position_ids[:, :1] + torch.arange(places.shape[1], device=merged.position_ids.device)).expand(len(places), -1)
    return merged.position_ids[..., 0, :][..., places.to(merged.position_ids.device)]


def _shift(lvlm: LVLM, ids: Tensor, position_ids: Tensor) -> Tensor:
    """What ``generate`` adds to the positions that it is given (PaliGemma counts from 1 there, and from 0 when its forward is called)."""
    seen = lvlm.model.prepare_inputs_for_generation(ids, position_ids=position_ids, attention_mask=torch.ones_like(ids), is_first_iteration=True)
    return seen["position_ids"] - position_ids
