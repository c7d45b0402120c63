"""Run the suffix of a captured example under gates, many forwards at once over one shared prefix."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from headflow.attention import _ACTIVE, Bank, Record, SuffixPass, obey, switched
from headflow.gates import Gate, check_gates
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture


class SuffixCache(DynamicCache):
    """Tells the model that a prefix has gone before, and stores nothing: the attention function brings the prefix."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix

    def get_mask_sizes(self, query_length: int | Tensor, layer_idx: int = 0) -> tuple[int, int]:
        # Some versions of transformers hand over the positions of the queries instead of their number.
        queries = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.prefix + queries, 0


def make_bank(capture: Capture, baseline: Baseline) -> Bank:
    """Prefix keys and values with the baseline's twins beside them; one copy serves every forward.

    Raises:
        HeadflowError: the baseline covers other positions than the example's picture.
    """
    baseline.check_fits(capture)
    if not baseline.keys:
        return Bank(capture.keys, capture.values, capture.prefix, capture.image)
    keys = [torch.cat([real, twin.to(real)], 1) for real, twin in zip(capture.keys, baseline.keys, strict=True)]
    values = [torch.cat([real, twin.to(real)], 1) for real, twin in zip(capture.values, baseline.values, strict=True)]
    return Bank(keys, values, capture.prefix, capture.image)


@contextmanager
def prepared(capture: Capture) -> Iterator[None]:
    """Set the model up for suffix passes; undone on the way out.

    In the last layer only the last position is read, so its output projection and its MLP are run for that alone: their
    one row is broadcast over the residual stream, whose last row then is right and whose other rows nobody reads.
    """
    decoder = capture.lvlm.decoder
    with ExitStack() as stack:
        stack.enter_context(switched(decoder))
        for module in _last_layer_parts(decoder):
            stack.callback(module.register_forward_pre_hook(_only_last_row).remove)
        yield


def _last_layer_parts(decoder: PreTrainedModel) -> list[torch.nn.Module]:
    layer = decoder.layers[-1] if hasattr(decoder, "layers") else None
    projection = getattr(getattr(layer, "self_attn", None), "o_proj", None)
    mlp = getattr(layer, "mlp", None)
    return [projection, mlp] if projection is not None and mlp is not None else []


def _only_last_row(module: torch.nn.Module, args: tuple) -> tuple | None:
    state = _ACTIVE.get(None)
    if state is None or state.last != 1 or not args:
        return None
    return (args[0][:, -1:], *args[1:])


def run_suffix(
    capture: Capture, bank: Bank, gates: Sequence[Gate] = (), *, last: int | None = 1, record: Record | None = None
) -> tuple[Float[Tensor, "batch last vocabulary"], SuffixPass]:
    """One batched suffix pass; call it inside :func:`prepared`.

    Args:
        capture: the example.
        bank: its shared keys and values.
        gates: the cuts; the batch size is the number of forwards that they tell apart.
        last: positions, counted from the end, whose logits are wanted (None = the whole suffix).
        record: receives every layer's attention weights.

    Returns:
        Logits in float32, and the state of the pass with the layers that fired.

    Raises:
        HeadflowError: a gate has the wrong shape.
    """
    lvlm = capture.lvlm
    positions = capture.prefix + capture.suffix
    batch = check_gates(gates, layers=lvlm.layers, heads=lvlm.heads, suffix=capture.suffix, positions=positions, image=capture.image)
    embeddings = capture.embeddings[:, capture.prefix :].expand(batch, -1, -1)
    position_ids = capture.position_ids[..., capture.prefix :]
    position_ids = position_ids.expand(*position_ids.shape[:-2], batch, -1)
    state = SuffixPass(bank, tuple(gates), last=last, record=record, last_layer=lvlm.layers - 1)
    with obey(state):
        output = lvlm.model(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            past_key_values=SuffixCache(capture.prefix),
            use_cache=True,
            logits_to_keep=last or 0,
        )
    return output.logits.float(), state
