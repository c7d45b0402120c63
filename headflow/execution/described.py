"""What models say about pictures, kept in the store: records of generated tokens, and the descriptions of the untouched model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headflow.decoding import Sampling, decode
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records
from headflow.execution.fingerprint import digest_json, record_key
from headflow.models.capture import Capture

# Whole numbers below this are exact in the store's float32.
_EXACT = 2**24


@dataclass(frozen=True)
class Speaker:
    """A picture that is to be described.

    Attributes:
        id: names the picture in messages, and its draws where tokens are drawn.
        context: fingerprint of the model, the picture, the prompt and the engine's code, that of decoding included.
        capture: captures the picture; called only if something is to be decoded.
    """

    id: str
    context: str
    capture: Callable[[], Capture]


@dataclass(frozen=True)
class Saying:
    """Generated tokens, without the one that ends them, and whether one did."""

    tokens: list[int]
    ended: bool


def describe(
    store: Records, speakers: Sequence[Speaker], *, max_new_tokens: int, sampling: Sampling | None = None, done: Count = lambda computed, found: None
) -> list[Saying]:
    """What the untouched model says about each picture; what the store lacks is decoded together, and kept.

    A description that ended serves every larger ``max_new_tokens``, and a longer one a smaller.

    Args:
        store: finished work.
        speakers: the pictures, on one model; all that are to be described are held in memory.
        max_new_tokens: where a description that does not end is cut off.
        sampling: None = greedy decoding.
        done: told of progress: descriptions decoded now, descriptions found in the store.

    Raises:
        HeadflowError: a picture cannot be captured, memory runs out with a single sequence, a token's number is too large to be stored (2^24), or
            the store cannot be used.
    """
    drawn = drawn_by(sampling)
    units = [record_key(speaker.context, "description", drawn, speaker.id if drawn else "") for speaker in speakers]
    known = store.get(units)
    sayings = [read(known.get(unit), max_new_tokens) for unit in units]
    missing = [place for place, saying in enumerate(sayings) if saying is None]
    done(0, len(sayings) - len(missing))
    if missing:
        captures = [captured(speakers[place]) for place in missing]
        said = decode(captures, max_new_tokens=max_new_tokens, sampling=sampling, examples=[speakers[place].id for place in missing])
        for place, [tokens] in zip(missing, said, strict=True):
            sayings[place] = Saying(tokens, len(tokens) < max_new_tokens)
        store.put([(units[place], record(tokens, max_new_tokens)) for place, [tokens] in zip(missing, said, strict=True)])
        done(len(missing), 0)
    return [saying for saying in sayings if saying is not None]


def drawn_by(sampling: Sampling | None) -> str:
    """How tokens are drawn, as a part of keys; empty where the most likely ones are taken."""
    return "" if sampling is None else digest_json([sampling.temperature, sampling.top_p, sampling.seed])


def captured(speaker: Speaker) -> Capture:
    """Its capture; what goes wrong names the picture."""
    try:
        return speaker.capture()
    except HeadflowError as error:
        raise HeadflowError(f"picture {speaker.id}: {error}") from error


def record(tokens: Sequence[int], longest: int) -> Float[np.ndarray, " numbers"]:
    """How many tokens there might have been, then the tokens."""
    if max(tokens, default=0) >= _EXACT:
        raise HeadflowError(f"token {max(tokens)} cannot be stored: vocabularies of up to {_EXACT:,} tokens are supported")
    return np.array([longest, *tokens], np.float32)


def read(record: Float[np.ndarray, " numbers"] | None, longest: int) -> Saying | None:
    """What a record says of at most ``longest`` tokens; None where it was cut off before."""
    if record is None or not len(record):
        return None
    limit, tokens = int(record[0]), [int(token) for token in record[1:]]
    if len(tokens) >= limit and limit < longest:
        return None
    return Saying(tokens[:longest], len(tokens) < min(limit, longest))
