"""What is left of an answer when only some of the picture's tokens stay: one example, many sets of tokens, three ways of taking the rest away.

``baseline`` and ``closed`` leave the picture as the decoder has read it and act on the edges to the text (:class:`headflow.gates.Gate`): a token
that goes shows its baseline twin, or nothing. ``removed`` runs the decoder over the tokens that stay alone (:mod:`headflow.models.keeping`).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.ablation import BatchSize
from headflow.batching import batch_of, run_in_batches
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models import keeping
from headflow.models.baselines import Baseline, closed_baseline
from headflow.models.capture import Capture
from headflow.models.keeping import Merged
from headflow.models.lvlm import LVLM
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Target

Way = Literal["baseline", "closed", "removed"]
WAYS = get_args(Way)
TARGET, FIRST, RIGHT = 0, 1, 2
"""Columns of what is measured: the target; 1 where greedy decoding gives the answer's first token; 1 where it gives the whole answer and ends it."""


def answer_and_ends(lvlm: LVLM, spoken: Sequence[int], longest: int) -> tuple[list[int], list[int]]:
    """An answer's tokens, and the tokens that end it: none where it was cut off at ``longest`` tokens, or nothing ever ends one."""
    return list(spoken), sorted(lvlm.end_tokens) if len(spoken) < longest else []


@dataclass
class KeptExample:
    """One example whose picture is to lose tokens.

    Attributes:
        lvlm: the model.
        picture: the picture, as :meth:`LVLM.capture` takes it.
        question: the user's text.
        baseline: what tokens that go show in the way ``baseline``.
        target: what is measured.
        answer: token ids that count as the right answer.
        ends: token ids that end it; empty = what follows the answer does not matter.
    """

    lvlm: LVLM
    picture: bytes
    question: str
    baseline: Baseline
    target: Target
    answer: Sequence[int]
    ends: Collection[int] = ()

    @cached_property
    def capture(self) -> Capture:
        """The example, with its answer fed to the model and one more position to see what follows it."""
        if not self.answer:
            raise HeadflowError("there is no answer that could be right")
        return self.lvlm.capture(self.picture, self.question, [*self.answer, *sorted(self.ends)[:1]])

    @cached_property
    def merged(self) -> Merged:
        return keeping.merge(self.lvlm, self.picture, self.question)

    @cached_property
    def selectable(self) -> Bool[np.ndarray, " image"]:
        return keeping.selectable_tokens(self.capture)

    def ways(self, wanted: Sequence[Way]) -> list[Way]:
        """Those ways that differ here: without a baseline to read, or under cross-attention, where image tokens never see each other in the
        decoder, one of them is the same as ``closed``."""
        same = {"baseline"} if not self.baseline.keys else set()
        same |= {"removed"} if self.capture.mode == "cross" else set()
        return [way for way in wanted if way not in same]

    def run(self, way: Way, sets: Bool[np.ndarray, "sets image"], batch_size: BatchSize = "auto") -> Float[np.ndarray, "sets 3"]:
        """Target, first token right and whole answer right (:data:`TARGET` …) with only these image tokens; structural tokens always stay.

        The whole answer is right if at each of its tokens, those before it given, the model would say the same: greedy decoding then gives
        these tokens and no others.

        Raises:
            HeadflowError: a target is not a finite number; or memory runs out with one set.
        """
        results = self._run(way, self.capture, sets, self._read, batch_size)
        if not self._target_fits:  # the whole answer is the target, and the model says it in other tokens
            other = self.lvlm.capture(self.picture, self.question, self._target_tokens)
            results[:, TARGET] = self._run(way, other, sets, lambda logits: self.target(logits)[:, None], batch_size)[:, 0]
        if not np.isfinite(results).all():
            raise HeadflowError("a target is not a finite number; run this model in float32 or bfloat16")
        return results

    @property
    def _target_tokens(self) -> list[int]:
        return [self.target.token, *self.target.rest]

    @property
    def _target_fits(self) -> bool:
        return self.target.kind != "answer_logprob" or list(self.answer) == self._target_tokens

    def _read(self, logits: Float[Tensor, "batch answer vocabulary"]) -> Float[Tensor, "batch 3"]:
        """The last row of logits is what follows the answer, if its end is known."""
        said, answer = logits.argmax(-1), torch.tensor(list(self.answer), device=logits.device)
        as_told = said[:, : len(answer)] == answer
        right = as_told.all(1)
        if self.ends:
            right &= torch.isin(said[:, len(answer)], torch.tensor(sorted(self.ends), device=said.device))
        target = self.target(logits[:, : len(answer)]) if self._target_fits else torch.zeros(len(logits), device=logits.device)
        return torch.stack([target.float(), as_told[:, 0].float(), right.float()], 1)

    @torch.no_grad()
    def _run(
        self, way: Way, capture: Capture, sets: Bool[np.ndarray, "sets image"], read: Callable[[Tensor], Tensor], batch_size: BatchSize
    ) -> Float[np.ndarray, "sets columns"]:
        if way == "removed":
            return self._removed(capture, sets, read)
        gone = torch.zeros(len(sets), capture.key_positions, device=self.lvlm.device)
        gone[:, capture.key_image] = torch.from_numpy(self.selectable & ~sets).to(gone)
        baseline = self.baseline if way == "baseline" else closed_baseline()
        bank = make_bank(capture, baseline)

        def work(start: int, stop: int) -> Float[Tensor, "batch columns"]:
            with torch.no_grad():
                logits = run_suffix(capture, bank, [Gate(baseline.reads, keys=gone[start:stop])], last=capture.predicts)
                return read(logits.expand(stop - start, -1, -1)).cpu()

        with prepared(capture):
            parts = [found for _, _, found in run_in_batches(work, len(sets), batch_of(capture, batch_size), capture)]
        return torch.cat(parts).numpy()

    def _removed(self, capture: Capture, sets: Bool[np.ndarray, "sets image"], read: Callable[[Tensor], Tensor]) -> Float[np.ndarray, "sets columns"]:
        """Sets of one size go together."""
        sizes, results = (sets & self.selectable).sum(1), {}
        for size in np.unique(sizes):
            members = np.flatnonzero(sizes == size)
            # As many tokens at once as in the suffixes of the other ways' batches.
            at_once = max(1, batch_of(capture, "auto") * capture.computed // capture.image.stop)
            for start in range(0, len(members), at_once):
                some = members[start : start + at_once]
                logits = keeping.removed_logits(self.lvlm, self.merged, sets[some], capture.answer_ids[:-1])
                results.update(zip(some.tolist(), read(logits).cpu().numpy(), strict=True))
        return np.stack([results[place] for place in range(len(sets))])
