"""The one attention function that obeys the gates; registered with transformers under the name ``headflow``.

It runs the *suffix* only (every token after the image span). The prefix is never recomputed: under causal attention no
gate changes it, so all forwards of a batch share one unbatched bank of prefix keys and values, and the baseline twins
of the image positions beside it. RoPE, QK-norm and projections have happened before this function is called.

Two kinds of model need more than the suffix (:data:`Mode`): where later tokens reach back before the end of the picture,
every forward runs the whole sequence and the bank holds the twins alone; where the picture enters through layers of
cross-attention, the prompt is text alone and the bank holds the picture's keys and their twins in those layers.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headflow.gates import Gate
from headflow.kernels.flash import both_sides, can_flash
from headflow.kernels.grouped import can_group, grouped
from headflow.kernels.joint import joint
from headflow.kernels.watched import in_blocks
from headflow.memory import is_out_of_memory
from headflow.suffix_pass import Bank, SuffixPass

NAME = "headflow"
# Until it fails: then every pass takes the general path, with the same numbers.
_flash_works = True
# A context variable and not a keyword argument: some families hand keyword arguments on to the vision tower. Each
# worker thread has its own.
_ACTIVE: ContextVar[SuffixPass] = ContextVar("headflow_suffix_pass")


@contextmanager
def obey(state: SuffixPass) -> Iterator[SuffixPass]:
    """Make ``state`` the one that the attention function reads in this thread."""
    token = _ACTIVE.set(state)
    try:
        yield state
    finally:
        _ACTIVE.reset(token)


# The stock implementation of each switched text model and how many use the switch now, by the identity of its config.
_switches: dict[int, tuple[str, int]] = {}
_switches_lock = threading.Lock()


@contextmanager
def switched(decoder: PreTrainedModel) -> Iterator[None]:
    """Route the text model, and it alone, through :func:`gated_attention`; undone on the way out, errors included.

    Several may use the switch at a time, in threads or in streams that are read alternately: the last one out undoes it.
    A stock forward meanwhile gets the stock attention.
    """
    config = decoder.config
    with _switches_lock:
        before, users = _switches.get(id(config), (config._attn_implementation, 0))
        _switches[id(config)] = (before, users + 1)
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _switches_lock:
            before, users = _switches.pop(id(config))
            if users > 1:
                _switches[id(config)] = (before, users - 1)
            else:
                config._attn_implementation = before


def _stock_name(config: object) -> str:
    return _switches.get(id(config), (config._attn_implementation, 0))[0]


@contextmanager
def watched(decoder: PreTrainedModel, layers: int) -> Iterator[dict[int, Bool[Tensor, "1 1 rows keys"]]]:
    """Stock forwards whose masks are seen: yields, layer by layer, what each query is shown. Nothing is cut."""
    seen: dict[int, Tensor] = {}
    nothing = Bank([torch.empty(0)] * layers, [torch.empty(0)] * layers, 0, slice(0, 0), "recomputed")
    with switched(decoder), obey(SuffixPass(nothing, seen=seen)):
        yield seen


def gated_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch heads suffix head_dim"],
    key: Float[Tensor, "batch kv_heads suffix head_dim"],
    value: Float[Tensor, "batch kv_heads suffix head_dim"],
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: object,
) -> tuple[Float[Tensor, "batch suffix heads head_dim"], None]:
    """Attention of suffix queries to the shared prefix and to their own suffix, under the active gates."""
    state = _ACTIVE.get(None)
    if state is None:  # a stock forward while somebody else's stream is open
        stock = ALL_ATTENTION_FUNCTIONS.get(_stock_name(module.config)) or sys.modules[type(module).__module__].eager_attention_forward
        return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap, **others)
    layer = module.layer_idx
    state.fired.append(layer)
    suffix = query.shape[2]
    needed = state.queries_needed(layer, suffix)
    given = state.bank.visible is not None and not state.generated
    visible = state.bank.visible[layer].to(query.device) if given else _visible(attention_mask)
    if state.seen is not None:
        state.seen[layer] = visible
    visible = visible[..., -needed:, :]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = _attend_part_by_part if state.parts else _attend
    output = attend(state, layer, query[:, :, -needed:], key, value, visible, scale, softcap)
    output = output.transpose(1, 2)
    if needed < suffix:  # the caller reshapes to the full suffix; rows that nobody reads stay zero
        padded = output.new_zeros(output.shape[0], suffix, *output.shape[2:])
        padded[:, -needed:] = output
        return padded, None
    return output.contiguous(), None


def _boolean_mask(*args: object, **kwargs: object) -> Tensor:
    """A real boolean mask, always: without one, sliding windows would silently be ignored."""
    if _ACTIVE.get(None) is None and "config" in kwargs:
        return ALL_MASK_ATTENTION_FUNCTIONS[_stock_name(kwargs["config"])](*args, **kwargs)
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, gated_attention)
AttentionMaskInterface.register(NAME, _boolean_mask)


def _visible(mask: Tensor) -> Tensor:
    """Which keys the stock model shows to each query, ``[1, 1, rows, keys]``; the same for every forward."""
    mask = mask[:1, :1]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _attend_part_by_part(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Several examples in one pass: the weights serve them all at once, keys are each example's own, so that none is padded."""
    outputs = []
    for part in state.parts:
        own_key, own_value = (x[part.rows, :, -part.own :] for x in (key, value))
        outputs.append(_attend(part.state, layer, query[part.rows], own_key, own_value, part.visible(layer, visible), scale, softcap))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    if state.watching is not None:
        return in_blocks(state, layer, query, key, value, visible, scale, softcap)
    if state.one_start and len(state.fired) == 1 and state.record is None and len(state.gates) == 1 and state.gates[0].only_heads:
        return _first_layer(state, layer, query[:1], key[:1], value[:1], visible, scale, softcap)
    global _flash_works
    if _flash_works and can_flash(state, query, visible, softcap):
        try:
            return both_sides(state, layer, state.gates[0], query, key, value, visible, scale)
        except (RuntimeError, TypeError) as error:  # a card or a build of torch without these kernels
            if is_out_of_memory(error):
                raise
            _flash_works = False
            warnings.warn(f"flash attention cannot be used here ({str(error).splitlines()[0]}); going on without it, slower", stacklevel=2)
    if can_group(state, query, visible, softcap):
        return grouped(state, layer, state.gates[0], query, key, value, visible, scale)
    active = []
    for gate in state.gates:
        rows = state.rows(gate, layer)
        if rows is None:
            continue
        rows = rows.to(query.device)  # a gate without row factors knows no device
        active.append((gate, rows[..., -query.shape[2] :] if rows.shape[-1] > 1 else rows))
    # Each mixing gate doubles the branches: its edges intact, its edges cut.
    branches: list[tuple[Tensor | None, list[tuple[Gate, Tensor]]]] = [(None, [])]
    for gate, rows in active:
        if not gate.mixes:
            branches = [(weight, [*cuts, (gate, rows)]) for weight, cuts in branches]
            continue
        amount, full = rows[..., None], torch.ones(1, 1, 1, device=rows.device, dtype=rows.dtype)
        branches = [
            (share if weight is None else weight * share, [*cuts, *taken])
            for weight, cuts in branches
            for share, taken in ((1 - amount, []), (amount, [(gate, full)]))
        ]
    total = None
    for weight, cuts in branches:
        output = joint(state, layer, cuts, query, key, value, visible, scale, softcap)
        output = output if weight is None else weight.to(output) * output
        total = output if total is None else total + output
    return total


def _first_layer(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Nothing differs between forwards before the first layer's gate: each head has two outputs, and forwards choose or mix."""
    gate = state.gates[0]
    intact = joint(state, layer, [], query, key, value, visible, scale, softcap)
    amount = state.rows(gate, layer)
    if amount is None:
        return intact.expand(state.forwards, -1, -1, -1)
    amount = (amount[..., -query.shape[2] :] if amount.shape[-1] > 1 else amount)[..., None].to(query)
    ablated = joint(state, layer, [(gate, amount.new_ones(1, 1, 1))], query, key, value, visible, scale, softcap)
    return torch.lerp(intact, ablated, amount)
