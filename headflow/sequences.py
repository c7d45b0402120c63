"""Sequences that grow token by token behind captured examples, many at once, each under gates of its own.

The prompt's suffix is run once under the gates of the prompt, and its keys and values are kept; then each step runs one token a
sequence, under the gates of generated tokens. The prefix is shared as in every masked run: one unbatched copy an example.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headflow.attention import obey
from headflow.batching import automatic_batch
from headflow.errors import HeadflowError
from headflow.gates import Gate, check_gates
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline
from headflow.models.capture import Capture
from headflow.suffix import SuffixCache, make_bank, run_suffix
from headflow.suffix_pass import Bank, Part, SuffixPass

# Room for this many further tokens is made at a time.
_BLOCK = 64


@dataclass(frozen=True)
class GateSet:
    """What is cut while one example is decoded.

    Forwards that the gates tell apart are decoded side by side: a sweep over layers and routes is one gate set.

    Attributes:
        prompt: gates of the prompt's tokens, as for any masked run. The last position of the prompt is one of them: the first generated
            token is read off there.
        generated: gates of the generated tokens, all alike: ``queries`` is left out or holds one amount, ``[*batch, 1]``; ``keys`` are
            those of the prompt, and generated tokens always see one another.
        baseline: what gates that read the baseline read; None = a uniform grey picture, where one is needed.
    """

    prompt: Sequence[Gate] = ()
    generated: Sequence[Gate] = ()
    baseline: Baseline | None = None

    @property
    def forwards(self) -> int:
        """Forwards that the gates tell apart."""
        return max((gate.batch for gate in (*self.prompt, *self.generated)), default=1)

    def check(self, capture: Capture) -> None:
        """
        Raises:
            HeadflowError: a gate does not fit the example, or the two kinds of gates disagree on the number of forwards.
        """
        shape = {"layers": capture.lvlm.layers, "heads": capture.lvlm.heads, "positions": capture.key_positions, "image": capture.key_image}
        prompt = check_gates(self.prompt, suffix=capture.suffix, **shape)
        try:
            generated = check_gates(self.generated, suffix=1, **shape)
        except HeadflowError as error:
            raise HeadflowError(f"gates of generated tokens: {error}") from None
        if 1 not in (prompt, generated) and prompt != generated:
            raise HeadflowError(f"gates of the prompt tell {prompt} forwards apart, those of generated tokens {generated}")
        if self.baseline is not None and not self.baseline.keys and self._reads_baseline:
            raise HeadflowError("a gate reads the baseline, but the baseline is 'closed'; use reads='nothing'")

    @property
    def _reads_baseline(self) -> bool:
        return any(gate.reads == "baseline" for gate in (*self.prompt, *self.generated))

    def settled(self, capture: Capture) -> "GateSet":
        """The same with its baseline made, which takes a stock run where it is the grey picture."""
        if self.baseline is not None:
            return self
        return replace(self, baseline=blank_baseline(capture) if self._reads_baseline else closed_baseline())

    def some(self, forwards: Sequence[int], device: torch.device) -> "GateSet":
        """The gates of some forwards, on ``device``."""
        prompt, generated = ([_some(gate.to(device, torch.float32), forwards) for gate in gates] for gates in (self.prompt, self.generated))
        return replace(self, prompt=prompt, generated=generated)


def _some(gate: Gate, forwards: Sequence[int]) -> Gate:
    factors = {}
    for name, ranks in (("heads", 3), ("queries", 2), ("keys", 2), ("layers", 2)):
        factor = getattr(gate, name)
        factors[name] = factor if factor is None or factor.ndim < ranks or len(factor) == 1 else factor[torch.tensor(forwards, device=factor.device)]
    return Gate(gate.reads, **factors)


class GrowingCache(SuffixCache):
    """Keeps the keys and values of what comes after the shared prefix; sequences of unequal length end together.

    Attributes:
        used: tokens that are kept, those of the longest sequence.
    """

    def __init__(self, prefix: int, passing: Sequence[int] = ()) -> None:
        """
        Args:
            passing: layers whose keys are not kept (those of cross-attention, which reads the bank's).
        """
        super().__init__(prefix)
        self.used = 0
        self._passing = frozenset(passing)
        # Per layer [kv_heads, sequences, room, head_dim]: key heads first, as the attention's products take them.
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if layer_idx in self._passing:
            return key_states, value_states
        stop = self.used + key_states.shape[2]
        kept = self._kept.get(layer_idx) or tuple(x.new_empty(x.shape[1], x.shape[0], 0, x.shape[3]) for x in (key_states, value_states))
        if stop > kept[0].shape[2]:
            kept = tuple(torch.nn.functional.pad(x[:, :, : self.used], (0, 0, 0, stop - self.used + (_BLOCK if self.used else 0))) for x in kept)
            self._kept[layer_idx] = kept
        for room, new in zip(kept, (key_states, value_states), strict=True):
            room[:, :, self.used : stop] = new.transpose(0, 1)
        return tuple(room[:, :, :stop].transpose(0, 1) for room in kept)

    def advance(self, tokens: int) -> None:
        """A pass is over: what it has written stays."""
        self.used += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix + self.used

    def get_mask_sizes(self, query_length: int | Tensor, layer_idx: int = 0) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        return length + self.used, offset

    @classmethod
    def side_by_side(cls, caches: Sequence["GrowingCache"], sequences: Sequence[int]) -> "GrowingCache":
        """One cache of them all, the shorter ones padded in front; each serves ``sequences`` sequences, and is left empty."""
        used = max(cache.used for cache in caches)
        whole = cls(max(cache.prefix + cache.used for cache in caches) - used, sorted(caches[0]._passing))
        whole.used = used
        for layer in sorted(caches[0]._kept):
            pairs = [cache._kept.pop(layer) for cache in caches]  # layer by layer, so that not everything is in memory twice
            whole._kept[layer] = tuple(
                torch.cat([
                    torch.nn.functional.pad(x[:, :, : cache.used].expand(-1, count, -1, -1), (0, 0, used - cache.used, _BLOCK))
                    for cache, x, count in zip(caches, parts, sequences, strict=True)
                ], 1)
                for parts in zip(*pairs, strict=True)
            )  # fmt: skip
        return whole

    def keep(self, sequences: Sequence[int], longest: int) -> None:
        """Only these sequences go on, the longest of which has ``longest`` tokens here."""
        for layer, pair in self._kept.items():
            chosen = torch.tensor(sequences, device=pair[0].device)
            self._kept[layer] = tuple(x[:, :, self.used - longest :].index_select(1, chosen) for x in pair)
        self.prefix, self.used = self.prefix + self.used - longest, longest


@dataclass
class _Member:
    """The sequences of one example.

    Attributes:
        capture: the example.
        bank: its shared keys and values.
        gates: gates of its generated tokens.
        forwards: how many sequences there are.
        own: tokens of each of them behind the shared prefix.
    """

    capture: Capture
    bank: Bank
    gates: GateSet
    forwards: int
    own: int
    part: Part | None = field(default=None, repr=False)


class Sequences:
    """Sequences behind one or several examples of one model; call it inside :func:`headflow.suffix.prepared`.

    Attributes:
        logits: logits of each sequence's next token, float32; those of the first token to begin with.
    """

    logits: Float[Tensor, "sequences vocabulary"]

    def __init__(self, captures: Sequence[Capture], gates: Sequence[GateSet], forwards: Sequence[Sequence[int]]) -> None:
        """Run the suffix of every prompt.

        Args:
            captures: the examples, captured without an answer; one alone where the picture is read by cross-attention.
            gates: what is cut, example by example.
            forwards: which of its forwards are wanted, example by example.
        """
        self._lvlm = captures[0].lvlm
        self._members: list[_Member] = []
        caches, counts, logits, positions = [], [], [], []
        for capture, whole, wanted in zip(captures, gates, forwards, strict=True):
            some = whole.some(wanted, self._lvlm.device)
            member = _Member(capture, make_bank(capture, some.settled(capture).baseline), some, len(wanted), capture.computed)
            for part in _slices(some, len(wanted), automatic_batch(capture)):
                caches.append(GrowingCache(capture.prefix, self._lvlm.image_layers or ()))
                counts.append(len(part))
                logits.append(self._run_prompt(member, some.some(part, self._lvlm.device), caches[-1]).expand(len(part), -1))
            positions.append(capture.position_ids[..., -1:].expand(*capture.position_ids.shape[:-2], len(wanted), 1))
            self._members.append(member)
        self._cache = GrowingCache.side_by_side(caches, counts)
        self._positions: Int[Tensor, "*axes sequences 1"] = torch.cat(positions, -2)
        self.logits = torch.cat(logits)
        self._part()

    def __len__(self) -> int:
        return len(self.logits)

    def _run_prompt(self, member: _Member, gates: GateSet, cache: GrowingCache) -> Tensor:
        logits = run_suffix(member.capture, member.bank, gates.prompt, cache=cache)[:, -1]
        cache.advance(member.capture.computed)
        return logits

    def _part(self) -> None:
        """Tell the attention function which sequences are whose."""
        first = 0
        for member in self._members:
            state = SuffixPass(member.bank, tuple(member.gates.generated), last=1, forwards=member.forwards, generated=True)
            member.part = Part(state, slice(first, first + member.forwards), member.own)
            first += member.forwards

    def append(self, tokens: Sequence[int]) -> None:
        """Let every sequence grow by its token."""
        for member in self._members:
            member.own += 1
            member.part.own = member.own
        parts = [member.part for member in self._members]
        state = SuffixPass(parts[0].state.bank, last=1, last_layer=self._lvlm.decoder_layers - 1, forwards=len(self), generated=True, parts=parts)
        self._positions = self._positions + 1
        ids = torch.tensor(list(tokens), device=self._lvlm.device)[:, None]
        with obey(state):
            output = self._lvlm.model(
                input_ids=ids, position_ids=self._positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **self._others(len(ids))
            )
        self._cache.advance(1)
        self.logits = output.logits[:, -1].float()

    def _others(self, sequences: int) -> dict[str, Tensor]:
        """Further inputs of the text model, token by token over the whole sequence: they stay as they are at the prompt's last token."""
        member = self._members[0]
        if member.capture.mode != "cross":
            return {}
        others = {
            name: torch.cat([extra, extra[:, -1:].expand(-1, member.own - extra.shape[1], *[-1] * (extra.ndim - 2))], 1).expand(
                sequences, *[-1] * (extra.ndim - 1)
            )
            for name, extra in member.capture.extras.items()
        }
        return {**others, "cross_attention_states": member.capture.embeddings.new_zeros(sequences, 1, member.capture.embeddings.shape[-1])}

    def keep(self, sequences: Sequence[int]) -> None:
        """Only these go on, by their places here, in ascending order."""
        members, first = [], 0
        for member in self._members:
            left = [place - first for place in sequences if first <= place < first + member.forwards]
            first += member.forwards
            if left:
                member.gates, member.forwards = member.gates.some(left, self._lvlm.device), len(left)
                members.append(member)
        self._members = members
        self._cache.keep(sequences, max(member.own for member in members))
        chosen = torch.tensor(sequences, device=self.logits.device)
        self.logits = self.logits[chosen]
        self._positions = self._positions.index_select(-2, chosen.to(self._positions.device))
        self._part()


def _slices(gates: GateSet, forwards: int, most: int) -> list[range]:
    """Forwards whose prompts are run together; a single run serves all where the gates of the prompt tell none apart."""
    if all(gate.batch == 1 for gate in gates.prompt):
        return [range(forwards)]
    return [range(start, min(start + most, forwards)) for start in range(0, forwards, most)]
