"""Follow-up questions behind compressed contexts, which can be stopped at any moment and continue where they stopped."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Float

from headflow.execution.executors.jobs import Records
from headflow.execution.fingerprint import digest, digest_json, engine_version, record_key
from headflow.execution.records import find_or_make
from headflow.models.compression.conversation import Conversation, Outcome
from headflow.models.compression.turns import Asking
from headflow.models.compression.variants import Variant

# What decides these numbers beside the engine.
CODE = (
    "seeds.py", "models/keeping.py", "models/spoken_attention.py",
    *(f"models/compression/{name}.py" for name in ("answering", "attention", "choice", "context", "conversation", "turns", "variants")),
)  # fmt: skip
# A record holds numbers of 32 bits, exact up to 2^24.
_WORD = 2**20


@dataclass
class StoredConversation:
    """A conversation as the result store knows it; the model runs only for what is missing there.

    Attributes:
        store: finished work.
        context: fingerprint of the model, the picture and the prompt.
        conversation: the conversation.
    """

    store: Records
    context: str
    conversation: Conversation

    def __post_init__(self) -> None:
        talk = self.conversation
        settings = [list(map(int, talk.said)), talk.name, talk.keep_description, talk.go_on_from, talk.attribution, talk.max_new_tokens, talk.seed]
        self._context = digest(self.context, "compress context", engine_version(*CODE), digest_json(settings))

    def run(self, asking: Asking, wanted: Sequence[Variant], followups: Sequence[str]) -> list[Outcome]:
        """See :meth:`Conversation.run`."""
        units = [self._unit("answers", asking, list(astuple(variant)), list(followups)) for variant in wanted]
        known = self.store.get(units)
        missing = [variant for variant, unit in zip(wanted, units, strict=True) if unit not in known]
        if missing:
            made = dict(zip(missing, self.conversation.run(asking, missing, followups), strict=True))
            known |= {unit: _packed(made[variant]) for variant, unit in zip(wanted, units, strict=True) if variant in made}
            self.store.put([(unit, known[unit]) for variant, unit in zip(wanted, units, strict=True) if variant in made])
        return [_unpacked(known[unit]) for unit in units]

    def anew(self, followup: str) -> list[int]:
        """What the stock model answers to a follow-up in a new conversation about the picture."""
        talk = self.conversation
        found = find_or_make(self.store, self._unit("anew", followup), lambda: talk.lvlm.answer_ids([talk.picture], followup, talk.max_new_tokens)[0])
        return found.astype(int).tolist()

    def seconds(self, asking: Asking, wanted: Sequence[Variant], followup: str) -> Float[np.ndarray, "variants rounds"]:
        """See :meth:`Conversation.seconds`; measured once."""
        unit = self._unit("seconds", asking, [list(astuple(variant)) for variant in wanted], followup)
        found = find_or_make(self.store, unit, lambda: self.conversation.seconds(asking, wanted, followup))
        return found.astype(float).reshape(len(wanted), -1)

    def _unit(self, *parts: object) -> bytes:
        return record_key(self._context, digest_json(list(parts)))


def _packed(outcome: Outcome) -> Float[np.ndarray, " numbers"]:
    """Context tokens, bytes in two parts, then every answer with its length before it."""
    numbers = [outcome.tokens, outcome.bytes // _WORD, outcome.bytes % _WORD]
    for answer in outcome.answers:
        numbers += [len(answer), *answer]
    return np.array(numbers, np.float32)


def _unpacked(record: Float[np.ndarray, " numbers"]) -> Outcome:
    tokens, high, low, *rest = record.astype(int).tolist()
    answers = []
    while rest:
        length, *rest = rest
        answers.append(rest[:length])
        rest = rest[length:]
    return Outcome(tokens, high * _WORD + low, answers)
