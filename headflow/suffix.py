"""Run the suffix of a captured example under gates, many forwards at once over one shared prefix."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from headflow.attention import _ACTIVE, obey, switched
from headflow.errors import HeadflowError
from headflow.gates import Gate, check_gates
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.suffix_pass import Bank, Differences, Record, SuffixPass, Watching


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
    model = capture.lvlm
    reading = model.image_layers or range(model.decoder_layers)
    banks = []
    for captured, twins in ((capture.keys, baseline.keys), (capture.values, baseline.values)):
        # Where everything is recomputed, the real keys are each forward's own.
        bank = [whole[:, :0] for whole in captured] if capture.mode == "recomputed" else list(captured)
        for layer, twin in zip(reading, twins, strict=True) if twins else ():
            bank[layer] = torch.cat([bank[layer], twin.to(bank[layer])], 1)
        banks.append(bank)
    picture = capture.key_positions if capture.mode == "cross" else 0
    return Bank(*banks, capture.prefix, capture.image, capture.mode, model.image_layers, picture, capture.visible)


@contextmanager
def prepared(capture: Capture) -> Iterator[None]:
    """Set the model up for suffix passes; undone on the way out.

    Two parts of the work are the same for all forwards, or read by nobody, and are left out:

    - The first layer's queries, keys and values are projected for one forward: nothing before them depends on a gate.
    - In the last layer only the last position is read, so its query and output projections and its MLP are run for that
      alone: their one row is broadcast over the suffix, whose last row then is right and whose other rows nobody reads.
    """
    decoder = capture.lvlm.decoder
    layers = list(getattr(decoder, "layers", ()))
    with ExitStack() as stack:
        stack.enter_context(switched(decoder))
        for module in _parts(layers[:1], "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            stack.callback(module.register_forward_pre_hook(_one_forward).remove)
            stack.callback(module.register_forward_hook(_for_all_forwards).remove)
        for module in _parts(layers[-1:], "self_attn.o_proj", "mlp"):
            stack.callback(module.register_forward_pre_hook(_only_last_row).remove)
        for module in _parts(layers[-1:], "self_attn.q_proj"):
            stack.callback(module.register_forward_pre_hook(_only_last_row).remove)
            stack.callback(module.register_forward_hook(_for_all_rows).remove)
        vocabulary = capture.lvlm.model.get_output_embeddings()
        if vocabulary is not None:
            stack.callback(vocabulary.register_forward_pre_hook(_contiguous).remove)
        yield


def _parts(layers: Sequence[torch.nn.Module], *names: str) -> list[torch.nn.Module]:
    """The named modules of these layers, or none of them where one is missing."""
    try:
        return [layer.get_submodule(name) for layer in layers for name in names]
    except AttributeError:
        return []


def _one_forward(module: torch.nn.Module, args: tuple) -> tuple | None:
    state = _ACTIVE.get(None)
    if state is None or not state.one_start or not args or args[0].ndim != 3:
        return None
    return (args[0][:1], *args[1:])


def _for_all_forwards(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor | None:
    state = _ACTIVE.get(None)
    return None if state is None or not state.one_start or not args or output.ndim != 3 else output.expand(state.forwards, -1, -1)


def _only_last_row(module: torch.nn.Module, args: tuple) -> tuple | None:
    state = _ACTIVE.get(None)
    if state is None or state.last != 1 or not args:
        return None
    # Contiguous, or the projection would become one product per forward.
    return (args[0][:, -1:].contiguous(), *args[1:])


def _contiguous(module: torch.nn.Module, args: tuple) -> tuple | None:
    """The last position's states come as a slice; on a slice the projection would become one product per forward."""
    return (args[0].contiguous(), *args[1:]) if args else None


def _for_all_rows(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor | None:
    state = _ACTIVE.get(None)
    if state is None or state.last != 1 or not args:
        return None
    return output.expand(output.shape[0], state.suffix, *output.shape[2:])


def run_suffix(
    capture: Capture, bank: Bank, gates: Sequence[Gate] = (), *, last: int | None = 1, record: Record | None = None,
    differences: Differences | None = None, fired: list[int] | None = None, cache: SuffixCache | None = None, watching: Watching | None = None,
) -> Float[Tensor, "batch last vocabulary"]:  # fmt: skip
    """One batched suffix pass; call it inside :func:`prepared`.

    Args:
        capture: the example.
        bank: its shared keys and values.
        gates: the cuts; the batch size is the number of forwards that they tell apart.
        last: positions, counted from the end, whose logits are wanted (None = all that are run).
        record: receives every layer's attention weights.
        differences: receives how every layer with a cut comes to its output, and hands the output on.
        fired: receives the layers that came through the attention function, in order.
        cache: receives the keys and values of the suffix; None = they are not kept.
        watching: looks at the attention of every query that is run, block by block; without gates only.

    Returns:
        Logits in float32.

    Raises:
        HeadflowError: a gate has the wrong shape, or the attention of a gated model is to be watched.
    """
    lvlm = capture.lvlm
    if watching is not None and gates:
        raise HeadflowError("attention is watched in the stock model: leave the gates out")
    batch = check_gates(
        gates, layers=lvlm.layers, heads=lvlm.heads, suffix=capture.suffix, positions=capture.key_positions, image=capture.key_image
    )
    embeddings = capture.embeddings[:, capture.prefix :].expand(batch, -1, -1)
    position_ids = capture.position_ids[..., capture.prefix :]
    position_ids = position_ids.expand(*position_ids.shape[:-2], batch, -1)
    state = SuffixPass(
        bank, tuple(gates), last=None if watching else last, record=record, watching=watching, differences=differences, fired=[] if fired is None else fired,
        last_layer=lvlm.decoder_layers - 1, forwards=batch, suffix=capture.computed, one_start=True,
    )  # fmt: skip
    others = {name: extra[:, capture.prefix :].expand(batch, *[-1] * (extra.ndim - 1)) for name, extra in capture.extras.items()}
    if capture.mode == "cross":
        # A picture's worth of nothing: without any, layers of cross-attention are left out; their attention takes the bank's.
        others["cross_attention_states"] = embeddings.new_zeros(batch, 1, embeddings.shape[-1])
    with obey(state):
        output = lvlm.model(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            past_key_values=SuffixCache(capture.prefix) if cache is None else cache,
            use_cache=True,
            logits_to_keep=last or 0,
            **others,
        )
    return output.logits.float()
