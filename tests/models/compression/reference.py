"""The answer key of compressed contexts: the whole conversation at once, dropped keys hidden from the follow-up layer by layer.

It shares no code with headflow.models.compression: the stock model class runs picture, prompt, description and follow-up as one sequence, under the
mask that transformers makes for its own eager attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "compression_reference"
_told: dict = {}


def _attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    """By formula; rotary positions have been applied before."""
    layer, group, length = module.layer_idx, query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    visible = (attention_mask > torch.finfo(attention_mask.dtype).min / 2).expand(1, 1, length, -1).clone()
    if layer not in _told["crossing"]:  # a model that sees its whole prompt both ways would take what follows for a part of it
        q, k = torch.arange(length)[:, None], torch.arange(length)[None]
        visible &= (k < _told["prompt"]) | (k <= q)
    hidden = _told["hidden"][layer]
    visible[:, :, -_told["new"] :, : len(hidden)] &= ~hidden
    scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.softmax(scores, -1) @ value).transpose(1, 2), None


def _whole_mask(*args, **kwargs):
    return eager_mask(*args, **{**kwargs, "allow_is_bidirectional_skip": False})


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _whole_mask)


@torch.no_grad()
def follow_up_logits(lvlm, picture, question: str, said: Sequence[int], followup: Sequence[int], hidden: Sequence[Tensor]) -> Tensor:
    """Logits [vocabulary] at the end of the follow-up.

    Args:
        hidden: per decoder layer which keys of prompt and description (of the picture, in a layer of cross-attention) the follow-up cannot see.
    """
    inputs = lvlm.inputs([picture], question)
    prompt, fed = inputs["input_ids"].shape[1], torch.tensor([[*said, *followup]])
    whole = {}
    for name, x in inputs.items():
        if x.ndim < 2 or x.shape[1] != prompt:
            whole[name] = x
        else:  # what goes token by token
            whole[name] = torch.cat([x, fed if name == "input_ids" else torch.cat([x[:, -1:]] * fed.shape[1], 1)], 1)
    config, before = lvlm.decoder.config, lvlm.decoder.config._attn_implementation
    _told.update(hidden=hidden, new=len(followup), prompt=prompt, crossing=set(getattr(config, "cross_attention_layers", ())))
    config._attn_implementation = NAME
    try:
        lvlm._forget_positions()
        return lvlm.model(**whole, use_cache=False).logits[0, -1].float()
    finally:
        config._attn_implementation = before
        _told.clear()
