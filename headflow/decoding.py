"""Generation under gates: what a model says when edges are cut while it reads the prompt, while it speaks, or both.

The first generated token comes from the prompt's last position: gates of generated tokens do not act on it, only those of the prompt do
(as in Kaduri et al. 2025, whose knockout of the picture for generated tokens leaves the first of them as it is).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headflow.ablation import BatchSize
from headflow.batching import forward_bytes, run_in_batches
from headflow.errors import HeadflowError
from headflow.models.capture import Capture
from headflow.seeds import generator
from headflow.sequences import GateSet, Sequences
from headflow.suffix import prepared

# Sequences at once, and the memory that their own keys and values may take on a CPU; on a GPU, the share of what weights leave free.
_MOST_SEQUENCES = 256
_CPU_BYTES = 2**31
_GPU_SHARE = 0.4
# Finished sequences leave the batch once they are this share of it: leaving costs a copy of what stays.
_FINISHED_SHARE = 0.25
_NOTHING = -1
_ROWS_SORTED_AT_ONCE = 64


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    A draw depends on the seed, the example and the number of the token alone: not on what is decoded beside it, and not on the gates, so
    that two gate sets of one example are compared under the same luck.

    Attributes:
        temperature: logits are divided by it.
        top_p: only the most likely tokens that together reach this probability are drawn (Holtzman et al. 2020, nucleus sampling).
        seed: seed of the draws.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise HeadflowError(f"temperature = {self.temperature}: must be above 0; leave sampling out to decode greedily")
        if not 0 < self.top_p <= 1:
            raise HeadflowError(f"top_p = {self.top_p}: must be above 0 and at most 1")

    def draw(self, logits: Float[Tensor, "sequences vocabulary"], examples: Sequence[int | str], step: int) -> Int[Tensor, " sequences"]:
        """The next token of every sequence, by the inverse of the distribution function over tokens from the most to the least likely."""
        luck = torch.tensor([generator(self.seed, f"decode/{example}", step).random() for example in examples], dtype=torch.float64, device=logits.device)
        drawn = [self._invert(some, some_luck) for some, some_luck in zip(logits.split(_ROWS_SORTED_AT_ONCE), luck.split(_ROWS_SORTED_AT_ONCE), strict=True)]
        return torch.cat(drawn)

    def _invert(self, logits: Tensor, luck: Tensor) -> Tensor:
        likely, tokens = torch.sort(torch.softmax(logits.double() / self.temperature, -1), dim=-1, descending=True, stable=True)
        reached = likely.cumsum(-1)
        # The token that reaches top_p is still in.
        last = torch.searchsorted(reached, torch.full_like(luck[:, None], self.top_p)).clamp_max(logits.shape[-1] - 1)
        place = torch.searchsorted(reached, luck[:, None] * reached.gather(-1, last), right=True)
        return tokens.gather(-1, torch.minimum(place, last))[:, 0]


@torch.no_grad()
def decode(
    captures: Sequence[Capture], gates: Sequence[GateSet] | None = None, *, max_new_tokens: int = 16, sampling: Sampling | None = None,
    examples: Sequence[int | str] | None = None, batch_size: BatchSize = "auto",
) -> list[list[list[int]]]:  # fmt: skip
    """What the model says about each example under each of its gate sets' forwards.

    Sequences of all examples and forwards are decoded together, each until it ends; models that read the picture by cross-attention take
    one example at a time. Without gates the tokens are those of :meth:`LVLM.answer_ids` and of ``model.generate``; in half precision up to tokens
    whose logits are the same to rounding.

    Args:
        captures: the examples, captured without an answer, on one model. All of them are held in memory.
        gates: what is cut, example by example; None = nothing.
        max_new_tokens: where a sequence that does not end is cut off.
        sampling: None = greedy decoding: the most likely token each time, whatever else the checkpoint's settings ask for.
        examples: a number or name for each example, which its draws depend on; None = its place in ``captures``.
        batch_size: sequences at once. Where memory runs out it is halved.

    Returns:
        Token ids without the one that ends them, ``[examples][forwards][tokens]``; a list of ``max_new_tokens`` tokens was cut off.

    Raises:
        HeadflowError: the gates do not fit the examples, an argument is out of range, or one sequence alone does not fit into memory.
    """
    gates = [GateSet()] * len(captures) if gates is None else list(gates)
    examples = list(range(len(captures))) if examples is None else list(examples)
    _check(captures, gates, examples, max_new_tokens, batch_size)
    if captures and captures[0].mode == "cross" and len(captures) > 1:
        options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "batch_size": batch_size}
        return [decode([capture], [cut], examples=[name], **options)[0] for capture, cut, name in zip(captures, gates, examples, strict=True)]
    if not captures:
        return []
    forwards = [(example, forward) for example, cut in enumerate(gates) for forward in range(cut.forwards)]
    ends = captures[0].lvlm.end_tokens
    gates = [cut.settled(capture) for capture, cut in zip(captures, gates, strict=True)]  # here, as stock runs and masked ones must not meet in threads

    def work(start: int, stop: int) -> Int[Tensor, "sequences steps"]:
        with torch.no_grad():
            grouped = {example: [forward for _, forward in those] for example, those in itertools.groupby(forwards[start:stop], key=lambda pair: pair[0])}
            sequences = Sequences([captures[i] for i in grouped], [gates[i] for i in grouped], list(grouped.values()))
            names = [examples[example] for example, _ in forwards[start:stop]]
            return _grow(sequences, names, max_new_tokens, ends, sampling)

    batch = automatic_sequences(captures, max_new_tokens) if batch_size == "auto" else batch_size
    said: list[list[list[int]]] = [[] for _ in captures]
    with prepared(captures[0]):
        for start, stop, tokens in run_in_batches(work, len(forwards), batch, captures[0]):
            for (example, _), row in zip(forwards[start:stop], tokens.tolist(), strict=True):
                said[example].append(list(itertools.takewhile(lambda token: token != _NOTHING, row)))
    return said


def _grow(sequences: Sequences, examples: Sequence[int | str], steps: int, ends: set[int], sampling: Sampling | None) -> Int[Tensor, "sequences steps"]:
    """Let sequences grow until they end; −1 stands after each one's last token."""
    said = torch.full((len(sequences), steps), _NOTHING)
    rows = list(range(len(sequences)))  # whose token each place of the batch is
    ended = [False] * len(rows)
    for step in range(steps):
        chosen = sequences.logits.argmax(-1) if sampling is None else sampling.draw(sequences.logits, [examples[row] for row in rows], step)
        tokens = chosen.tolist()
        for row, token in zip(rows, tokens, strict=True):
            ended[row] = ended[row] or token in ends
            if not ended[row]:
                said[row, step] = token
        going = [place for place, row in enumerate(rows) if not ended[row]]
        if not going or step + 1 == steps:
            break
        if len(rows) - len(going) >= _FINISHED_SHARE * len(rows):
            sequences.keep(going)
            rows, tokens = [rows[place] for place in going], [tokens[place] for place in going]
        sequences.append(tokens)
    return said


def automatic_sequences(captures: Sequence[Capture], max_new_tokens: int) -> int:
    """Sequences at once: a rule of shapes and total memory alone."""
    lvlm = captures[0].lvlm
    width = sum(keys.shape[0] * keys.shape[2] + values.shape[0] * values.shape[2] for keys, values in zip(captures[0].keys, captures[0].values, strict=True))
    own = width * lvlm.dtype.itemsize * (max(capture.computed for capture in captures) + max_new_tokens)
    if lvlm.device.type != "cuda":
        return int(max(1, min(_MOST_SEQUENCES, _CPU_BYTES // own)))
    total = torch.cuda.get_device_properties(lvlm.device).total_memory
    free = max(total - lvlm.weight_bytes(lvlm.device), total // 20)
    step = max(forward_bytes(capture) // capture.computed for capture in captures)
    return int(max(1, min(_MOST_SEQUENCES, _GPU_SHARE * free // (own + step))))


def _check(captures: Sequence[Capture], gates: Sequence[GateSet], examples: Sequence[int | str], max_new_tokens: int, batch_size: BatchSize) -> None:
    for name, given in (("gate sets", gates), ("names of examples", examples)):
        if len(given) != len(captures):
            raise HeadflowError(f"decode: {len(captures)} examples, but {len(given)} {name}")
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", 1 if batch_size == "auto" else batch_size)):
        if value < 1:
            raise HeadflowError(f"decode: {name} = {value}: must be at least 1")
    for capture, cut in zip(captures, gates, strict=True):
        if capture.lvlm is not captures[0].lvlm:
            raise HeadflowError("decode: the examples are captured on several models; decode those of each model by themselves")
        if len(capture.answer_ids) > 1:
            raise HeadflowError("decode: an example is captured with an answer that is fed to the model; capture it without")
        cut.check(capture)
