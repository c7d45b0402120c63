"""A vision tower in which no token looks at another one, and what of the picture then reaches which token of the text model.

Attention is the one thing that spreads a patch over all tokens. With it switched off (each position attends to itself alone), whatever
tiling, merging, pooling or reordering the model does, a token still depends on exactly the pixels that it shows.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headflow.tolerance import relative

if TYPE_CHECKING:
    from headflow.models.lvlm import LVLM

NAME = "headflow_unmixed"
# Leaves of module names that mean attention, in towers that do not go through transformers' attention interface.
_ATTENTION = re.compile(r"(self_?)?(attn|attention)", re.IGNORECASE)
# In the thread that measures: how often the attention function was called. Other threads go on with the stock attention.
_CALLS: ContextVar[list[int] | None] = ContextVar("headflow_unmixed_calls", default=None)
_one_at_a_time = threading.Lock()
_stock: dict[int, str] = {}


class _Reached(Exception):
    """The text model was called; what it was given is all that was wanted."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given


def picture_tokens(lvlm: "LVLM", inputs: dict[str, Tensor], span: slice) -> Float[Tensor, "image hidden"]:
    """The picture as the text model receives it, with its graph; the text model does not run, and no token has seen another.

    Args:
        lvlm: the model.
        inputs: of one prompt.
        span: the image span; under cross-attention all that the picture gives is returned instead.
    """
    with _unmixed(lvlm, hooks=False) as calls:
        tokens = _received(lvlm, inputs, span)
    if calls:
        return tokens
    with _unmixed(lvlm, hooks=True):  # a tower with attention code of its own
        return _received(lvlm, inputs, span)


def _received(lvlm: "LVLM", inputs: dict[str, Tensor], span: slice) -> Tensor:
    def stop(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        raise _Reached(kwargs)

    handle = lvlm.decoder.register_forward_pre_hook(stop, with_kwargs=True)
    lvlm._forget_positions()
    try:
        lvlm.model(**inputs, use_cache=False)
    except _Reached as reached:
        crossed = reached.given.get("cross_attention_states")
        return reached.given["inputs_embeds"][0, span] if crossed is None else crossed.reshape(-1, crossed.shape[-1])
    finally:
        handle.remove()
        lvlm._forget_positions()
    raise AssertionError("the model answered without its text model")


@contextmanager
def _unmixed(lvlm: "LVLM", *, hooks: bool) -> Iterator[list[int]]:
    """Outside the text model positions attend to themselves alone, and blocks let gradients pass; undone on the way out.

    Args:
        lvlm: the model.
        hooks: silence the modules that are named like attention, in place of switching transformers' attention interface.
    """
    text = {id(module) for module in lvlm.decoder.modules()}
    outside = {name: module for name, module in lvlm.model.named_modules() if id(module) not in text}
    configs = {id(m.config): m.config for m in outside.values() if hasattr(getattr(m, "config", None), "_attn_implementation")}
    calls: list[int] = []
    with _one_at_a_time, ExitStack() as undo:
        token = _CALLS.set(calls)
        undo.callback(_CALLS.reset, token)
        for config in configs.values():
            # Not the configuration of the whole model, nor parts of one: each tower's own alone.
            if not hooks and config.get_text_config() is not lvlm.decoder.config:
                _stock[id(config)] = config._attn_implementation
                undo.callback(_restore, config)
                config._attn_implementation = {"": NAME}
        blocks: set[int] = set()
        for name, module in outside.items():
            if hooks and _ATTENTION.fullmatch(name.rpartition(".")[2]):
                undo.callback(module.register_forward_hook(_silence).remove)
            if isinstance(module, torch.nn.ModuleList) and id(module) not in blocks:
                for block in module:
                    undo.enter_context(_letting_through(block, lvlm.tolerance))
                    blocks |= {id(part) for part in block.modules()}
        yield calls


def _restore(config: Any) -> None:
    config._attn_implementation = {"": _stock.pop(id(config))}


def _silence(module: torch.nn.Module, args: tuple, output: Any) -> Any:
    if _CALLS.get() is None:
        return output
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)


def _itself(
    module: torch.nn.Module,
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Float[Tensor, "batch queries heads head_dim"], None]:
    """Self-attention in which each position attends to itself alone; attention to something else (resamplers) is left as it is."""
    calls = _CALLS.get()
    if calls is None:  # a stock forward in another thread
        stock = ALL_ATTENTION_FUNCTIONS.get(_stock_name(module.config)) or sys.modules[type(module).__module__].eager_attention_forward
        return stock(module, query, key, value, attention_mask, **others)
    calls.append(query.shape[2])
    if query.shape[2] != key.shape[2]:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2), None
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous(), None


def _mask(*args: Any, **kwargs: Any) -> Any:
    if _CALLS.get() is None and "config" in kwargs:
        return ALL_MASK_ATTENTION_FUNCTIONS[_stock_name(kwargs["config"])](*args, **kwargs)
    return sdpa_mask(*args, **kwargs)


def _stock_name(config: Any) -> str:
    return _stock.get(id(config), config._attn_implementation)


AttentionInterface.register(NAME, _itself)
AttentionMaskInterface.register(NAME, _mask)


@contextmanager
def _letting_through(block: torch.nn.Module, tolerance: float) -> Iterator[None]:
    """Within a block of a tower each position of the output depends on that position of the input alone, which is tested; then its gradient
    is taken to be the identity (a straight-through estimator: which pixels matter does not change), and none of its inner numbers is kept."""
    stock, own = block.forward, "forward" in vars(block)
    draws = torch.Generator().manual_seed(0)

    def forward(*args: Any, **kwargs: Any) -> Any:
        name = None if args else next(iter(kwargs), None)
        given = args[0] if args else kwargs.get(name)
        if _CALLS.get() is None or not (isinstance(given, Tensor) and given.is_floating_point() and given.requires_grad and given.ndim > 1):
            return stock(*args, **kwargs)

        def run(x: Tensor) -> Any:
            return stock(x, *args[1:], **kwargs) if args else stock(**{**kwargs, name: x})

        with torch.no_grad():
            output = run(given)
            state = _state(output)
            if state is None or state.shape != given.shape:
                return _with_gradient(run, given)
            changed = torch.rand(given.shape[:-1], generator=draws).to(given.device) < 0.5
            noise = torch.randn(given.shape, generator=draws).to(given) * given.std()
            again = _state(run(torch.where(changed[..., None], noise, given)))
            mixes = bool((~changed).any()) and not relative(again[~changed], state[~changed]) <= tolerance
        if mixes:
            return _with_gradient(run, given)
        through = given + (state - given).detach()
        return (through, *output[1:]) if isinstance(output, tuple) else through

    block.forward = forward
    try:
        yield
    finally:
        if own:
            block.forward = stock
        else:
            del block.forward


def _with_gradient(run: Callable[[Tensor], Any], given: Tensor) -> Any:
    with torch.enable_grad():
        return run(given)


def _state(output: Any) -> Tensor | None:
    state = output[0] if isinstance(output, tuple) and output else output
    return state if isinstance(state, Tensor) else None
