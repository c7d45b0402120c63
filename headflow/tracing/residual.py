"""The way from a head's output to the logits, with every norm on it held at the scale that it has in a given run.

A decoder adds up what its parts write: embedding + Σ heads + Σ MLPs = the last residual state, and the logits are unembedding(norm(that)). Only the norm
is not linear. With its scale *frozen* at the value of the run, each part has a share of the logits, and the shares add up to them exactly (direct logit
attribution: Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*; reading inner states by the unembedding: nostalgebraist 2020,
*interpreting GPT: the logit lens*). A share says what a part writes into the last state; what later parts make of it is theirs.

No family is named here. Where a layer adds what its attention says, by what factor (Granite's multiplier, Mllama's gates), through which norm (Gemma's norms
behind the attention), is read off one run of the stock model and checked against it; a model in which the check fails is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headflow.errors import HeadflowError
from headflow.models.baselines import closed_baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.tolerance import relative

_SNAP = 1e-3  # a factor this close to 1 is 1
_SHIFT = 3.0
_FAINT = 1e-6


@dataclass(frozen=True)
class Frozen:
    """A norm with its scale held: x → weight · scale · x, of x less its mean where the norm ``centres``.

    Attributes:
        weight: per channel.
        scale: of each position of a run.
    """

    weight: Float[Tensor, " hidden"]
    scale: Float[Tensor, "*positions 1"]
    centres: bool

    def __call__(self, x: Float[Tensor, "*more hidden"]) -> Float[Tensor, "*more hidden"]:
        x = x - x.mean(-1, keepdim=True) if self.centres else x
        return x * self.weight.to(x) * self.scale.to(x)


@dataclass(frozen=True)
class Norm:
    """A normalisation module, RMS or layer norm, taken apart by asking it about vectors with a known answer."""

    module: nn.Module
    weight: Float[Tensor, " hidden"]
    bias: Float[Tensor, " hidden"]
    centres: bool

    @classmethod
    @torch.no_grad()
    def take_apart(cls, module: nn.Module, like: Float[Tensor, "*some hidden"]) -> "Norm":
        # Large, so that the small number under the root does not count.
        signs = 1e3 * torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
        signs[1::2] *= -1
        asked = torch.stack([torch.zeros_like(signs), signs, signs + 1e3 * _SHIFT])
        nothing, answer, shifted = module(asked[None])[0].float()
        centres = relative(shifted, answer) < 0.1
        given = signs.float() - (signs.float().mean() if centres else 0.0)
        return cls(module, (answer - nothing) * given.square().mean().sqrt() / given, nothing, centres)

    def freeze(self, x: Float[Tensor, "*positions hidden"], y: Float[Tensor, "*positions hidden"], tolerance: float) -> Frozen:
        """The norm as it was when it made ``y`` of ``x``.

        Raises:
            HeadflowError: no scale for each position does so.
        """
        x, y = x.detach().float(), y.detach().float() - self.bias.to(y.device)
        plain = Frozen(self.weight, torch.ones(*x.shape[:-1], 1), self.centres)
        like = plain(x)
        scale = (y * like).sum(-1, keepdim=True) / (like * like).sum(-1, keepdim=True).clamp_min(1e-30)
        if not relative(like * scale, y) <= tolerance:
            raise HeadflowError(f"what heads write cannot be read: {type(self.module).__name__} is neither an RMS norm nor a layer norm")
        return Frozen(self.weight, scale, self.centres)


@dataclass(frozen=True)
class LayerPath:
    """How one decoder layer adds what its attention says to the residual stream: factor · norms(projection(heads' outputs)).

    Attributes:
        projection: ``o_proj``; its input is ``[*, heads · head_dim]``, head after head.
        norms: behind it, in order; usually none.
        factor: usually 1.
    """

    projection: nn.Module
    norms: tuple[Norm, ...]
    factor: float


@dataclass(frozen=True)
class Paths:
    """The ways from all decoder layers to the logits.

    Attributes:
        layers: one for each decoder layer.
        norm: the last one.
        unembedding: the output embeddings.
        factor: from their output to the logits (Cohere, Granite); usually 1.
        softcap: c in logits = c · tanh(·/c) (Gemma 2); None = none. Shares are of what stands inside the tanh.
    """

    layers: tuple[LayerPath, ...]
    norm: Norm
    unembedding: nn.Module
    factor: float
    softcap: float | None

    def unembed(self, normed: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows vocabulary"]:
        """From the last norm's output to the logits before any soft cap."""
        return self.factor * _apply(self.unembedding, normed)

    def logits(self, raw: Float[Tensor, "*some vocabulary"]) -> Float[Tensor, "*some vocabulary"]:
        """What the model gives out, from the sum of all shares."""
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)


@dataclass
class Recording:
    """What one batch of forwards leaves on the ways: rows are the last ``rows`` positions.

    Attributes:
        rows: positions, counted from the end.
        cut_off: whether heads' outputs go on as constants, so that gradients reach them by these ways alone.
        heads: input of each layer's projection ``[batch, rows, heads · head_dim]``.
        norms: input and output of every norm on the ways.
    """

    rows: int
    cut_off: bool = False
    heads: dict[int, Tensor] = field(default_factory=dict)
    norms: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


# Each worker thread has its own.
_RECORDING: ContextVar[Recording | None] = ContextVar("headflow_recording", default=None)


@contextmanager
def recordable(paths: Paths) -> Iterator[None]:
    """Let :func:`recording` see what passes along ``paths``; call it inside :func:`headflow.suffix.prepared`."""

    def take(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if (now := _RECORDING.get()) is None:
                return None
            now.heads[layer] = args[0][:, -now.rows :]
            return (args[0].detach(), *args[1:]) if now.cut_off else None

        return hook

    def take_norm(module: nn.Module, args: tuple, output: Tensor) -> None:
        if (now := _RECORDING.get()) is not None:
            now.norms[module] = args[0][:, -now.rows :].detach(), output[:, -now.rows :].detach()

    with ExitStack() as stack:
        for layer, path in enumerate(paths.layers):
            stack.callback(path.projection.register_forward_pre_hook(take(layer)).remove)
        for norm in (*(norm for path in paths.layers for norm in path.norms), paths.norm):
            stack.callback(norm.module.register_forward_hook(take_norm).remove)
        yield


@contextmanager
def recording(rows: int, *, cut_off: bool = False) -> Iterator[Recording]:
    """Record the forwards that this thread runs inside the block."""
    now = Recording(rows, cut_off)
    token = _RECORDING.set(now)
    try:
        yield now
    finally:
        _RECORDING.reset(token)


class Stream:
    """The ways to the logits in one batch of forwards, all norms frozen: linear maps.

    Raises:
        HeadflowError: a norm on the way is of an unknown kind.
    """

    def __init__(self, paths: Paths, recorded: Recording, tolerance: float, forwards: slice = slice(None)) -> None:
        """
        Args:
            forwards: those whose scales are held.
        """
        self.paths = paths

        def freeze(norm: Norm) -> Frozen:
            return norm.freeze(*(x[forwards] for x in recorded.norms[norm.module]), tolerance)

        self._behind = [[freeze(norm) for norm in path.norms] for path in paths.layers]
        self._last = freeze(paths.norm)

    def write(self, layer: int, heads: Float[Tensor, "*more batch rows width"]) -> Float[Tensor, "*more batch rows hidden"]:
        """What these outputs of a decoder layer's heads, side by side, add to the residual stream; linear, float32.

        What the projection's bias adds is no head's and is left out.
        """
        path = self.paths.layers[layer]
        written = _linear(path.projection, heads)
        for norm in self._behind[layer]:
            written = norm(written)
        return path.factor * written

    def read(self, written: Float[Tensor, "*more batch rows hidden"]) -> Float[Tensor, "*more batch rows vocabulary"]:
        """The share of the logits that stands in these parts of the residual stream; before a soft cap."""
        return self.paths.factor * _linear(self.paths.unembedding, self._last(written))

    def constant(self) -> Float[Tensor, " vocabulary"]:
        """What the biases of the last norm and of the unembedding add to the logits, whatever is written."""
        return self.paths.unembed(self.paths.norm.bias[None, None])[0, 0]


def _linear(module: nn.Module, x: Float[Tensor, "*more width"]) -> Float[Tensor, "*more out"]:
    """A linear module without its bias; called and not multiplied out, as its weights may be packed (quantized) or elsewhere."""
    both = _apply(module, torch.cat([x.reshape(1, -1, x.shape[-1]), x.new_zeros(1, 1, x.shape[-1])], 1))[0]
    return (both[:-1] - both[-1:]).reshape(*x.shape[:-1], -1)


def _apply(module: nn.Module, x: Tensor) -> Tensor:
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = next((p.device for p in module.parameters()), x.device)
    if device.type == "meta":  # swapped in by a hook of the module
        device = x.device
    return module(x.to(device, x.dtype if weight is None else weight.dtype)).float()


_known: WeakKeyDictionary[nn.Module, Paths] = WeakKeyDictionary()


def find_paths(capture: Capture) -> Paths:
    """The ways from the heads of the example's model to its logits; found once for each model.

    Raises:
        HeadflowError: the model is not such a sum of parts, or cannot be recognised as one.
    """
    model = capture.lvlm.model
    if model not in _known:
        _known[model] = _find(capture)
    return _known[model]


@dataclass
class _Call:
    module: nn.Module
    given: Tensor | None
    output: Tensor


@dataclass
class _Seen:
    """What one decoder layer was seen to do, in order."""

    start: Tensor | None = None
    end: Tensor | None = None
    parts: list[_Call] = field(default_factory=list)
    inner: list[_Call] = field(default_factory=list)


@torch.no_grad()
def _find(capture: Capture) -> Paths:
    lvlm = capture.lvlm
    layers = list(getattr(lvlm.decoder, "layers", ()))
    unembedding = lvlm.model.get_output_embeddings()
    if len(layers) != lvlm.decoder_layers or unembedding is None:
        raise HeadflowError(f"{_name(capture)} names no decoder layers or no output embeddings (decoder.layers, get_output_embeddings)")
    seen, outer = [_Seen() for _ in layers], []
    with prepared(capture), ExitStack() as stack:
        for layer, notes in zip(layers, seen, strict=True):
            stack.callback(layer.register_forward_hook(_ends(notes), with_kwargs=True).remove)
            for part in layer.children():
                stack.callback(part.register_forward_hook(_calls(notes.parts), with_kwargs=True).remove)
                if hasattr(part, "layer_idx"):
                    for inner in part.children():
                        stack.callback(inner.register_forward_hook(_calls(notes.inner), with_kwargs=True).remove)
        for part in lvlm.decoder.children():
            stack.callback(part.register_forward_hook(_calls(outer), with_kwargs=True).remove)
        logits = run_suffix(capture, make_bank(capture, closed_baseline()), last=1)
    paths = tuple(_layer_path(capture, number, notes) for number, notes in enumerate(seen))
    last = _last_norm(capture, outer)
    raw = _apply(unembedding, last.output[:, -1:])
    factor, softcap = _to_logits(capture, raw, logits)
    return Paths(paths, Norm.take_apart(last.module, last.given), unembedding, factor, softcap)


def _ends(notes: _Seen) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        notes.start, notes.end = _given(args, kwargs), _first(output)

    return hook


def _calls(notes: list[_Call]) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        if isinstance(made := _first(output), Tensor):
            notes.append(_Call(module, _given(args, kwargs), made))

    return hook


def _given(args: tuple, kwargs: dict) -> Tensor | None:
    found = args[0] if args else kwargs.get("hidden_states")
    return found if isinstance(found, Tensor) else None


def _first(output: object) -> object:
    return output[0] if isinstance(output, tuple) else output


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is other or (one is not None and one.shape == other.shape and torch.equal(one, other))


def _layer_path(capture: Capture, number: int, notes: _Seen) -> LayerPath:
    """From what the layer was seen to do: start + factor · attention + other factor · MLP = end, each behind its own norms."""
    where = f"{_name(capture)}, layer {number}"
    place = next((i for i, call in enumerate(notes.parts) if hasattr(call.module, "layer_idx")), None)
    if place is None or notes.start is None or notes.end is None:
        raise HeadflowError(f"{where}: no attention was seen (a module with layer_idx)")
    attention = notes.parts[place]
    projection = next((call for call in reversed(notes.inner) if _same(call.output, attention.output)), None)
    if projection is None:
        raise HeadflowError(f"{where}: no output projection (o_proj) was seen to end the attention")
    said, norms = attention.output, []
    for call in notes.parts[place + 1 :]:
        if not _same(call.given, said):
            break
        if not _same(call.output, said):  # a dropout changes nothing
            norms.append(call)
        said = call.output
    rest = notes.parts[-1].output
    factor = _factor(where, *(x[:, -1:].float().cpu() for x in (notes.start, notes.end, said, rest)), capture.lvlm.tolerance)
    taken = tuple(Norm.take_apart(call.module, call.given) for call in norms)
    for norm, call in zip(taken, norms, strict=True):
        norm.freeze(call.given[:, -1:], call.output[:, -1:], capture.lvlm.tolerance)
    return LayerPath(projection.module, taken, factor)


def _factor(where: str, start: Tensor, end: Tensor, said: Tensor, rest: Tensor, tolerance: float) -> float:
    """The factor of ``said`` in end = start + factor · said + other · rest, by least squares.

    Channels count by the inverse of their size: rounding grows with it, and some channels of large models are a thousand times larger.
    """
    if float(said.abs().max()) <= _FAINT * float(end.abs().max()):
        return 1.0  # it says nothing here; a factor would be a guess
    weights = 1 / (end.abs() + end.abs().mean())
    sides = torch.stack([(said * weights).flatten(), (rest * weights).flatten()], 1).double()
    found = torch.linalg.lstsq(sides, ((end - start) * weights).flatten().double()[:, None], driver="gelsd").solution[:, 0]
    factor, other = (1.0 if abs(float(x) - 1) <= max(_SNAP, tolerance) else float(x) for x in found)
    if not relative(start + factor * said + other * rest, end) <= tolerance:
        raise HeadflowError(f"{where}: its output is not the sum of its input, its attention and one more part, so what a head writes cannot be told")
    return factor


def _last_norm(capture: Capture, outer: Sequence[_Call]) -> _Call:
    wide = [call for call in outer if call.given is not None and call.given.is_floating_point() and call.given.shape == call.output.shape]
    if not wide:
        raise HeadflowError(f"{_name(capture)}: no norm was seen behind the last layer")
    return wide[-1]


def _to_logits(capture: Capture, raw: Tensor, logits: Tensor) -> tuple[float, float | None]:
    """Factor and soft cap between the unembedding's output and the logits."""
    tolerance, raw, logits = capture.lvlm.tolerance, raw.cpu(), logits.cpu()  # a model may lie on several devices
    factor = float((raw.double() * logits.double()).sum() / (raw.double() ** 2).sum())
    factor = 1.0 if abs(factor - 1) <= max(_SNAP, tolerance) else factor
    if relative(factor * raw, logits) <= tolerance:
        return factor, None
    cap = getattr(capture.lvlm.decoder.config, "final_logit_softcapping", None)
    if cap and relative(cap * torch.tanh(raw / cap), logits) <= tolerance:
        return 1.0, float(cap)
    raise HeadflowError(f"{_name(capture)}: its logits are not its unembedding of the last norm, so what a head writes cannot be told")


def _name(capture: Capture) -> str:
    return type(capture.lvlm.model).__name__
