"""What the model answers to follow-up questions behind what is kept of its context."""

import itertools
import time
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headflow.errors import HeadflowError
from headflow.memory import is_out_of_memory
from headflow.models.compression.attention import GONE, Columns, CompressedCache, behind
from headflow.models.compression.context import Context, Kept

# Keys and values of the rows that are answered together, bytes.
_BATCH_BYTES = 2**28
_MOST_ROWS = 256
_NOTHING = -1


@torch.no_grad()
def answers(
    context: Context, kept: Sequence[Kept], questions: Sequence[Sequence[int]], *, start: int | None = None, max_new_tokens: int = 8,
    batch_bytes: int = _BATCH_BYTES,
) -> list[list[list[int]]]:  # fmt: skip
    """Greedy answers to every question behind every kept part of one context.

    Args:
        context: the conversation so far.
        kept: what stays of it.
        questions: token ids of each follow-up, up to where the model is to answer.
        start: position of a follow-up's first token; None = the one that comes next in the conversation, whatever was dropped of it.
        max_new_tokens: where an answer that does not end is cut off.
        batch_bytes: keys and values that are held for the rows that go together; it changes no answer beyond rounding.

    Returns:
        Token ids without the one that ends them, ``[kept][questions][tokens]``.

    Raises:
        HeadflowError: something kept does not fit the context, a question is empty, or one row does not fit into memory.
    """
    said: list[list[list[int]]] = [[[] for _ in questions] for _ in kept]
    for rows in _batches(context, kept, questions, batch_bytes):
        for some, tokens in _halving(context, kept, questions, rows, context.following if start is None else start, max_new_tokens):
            for (which, asked), row in zip(some, tokens.tolist(), strict=True):
                said[which][asked] = list(itertools.takewhile(lambda token: token != _NOTHING, row))
    return said


@torch.no_grad()
def first_logits(context: Context, kept: Kept, question: Sequence[int], *, start: int | None = None) -> Float[Tensor, " vocabulary"]:
    """Logits, float32, of the first token of the answer to one follow-up."""
    kept.check(context)
    reading = _Reading(context, [kept], context.following if start is None else start)
    return reading.feed(torch.tensor([list(question)]))[0]


@torch.no_grad()
def seconds(context: Context, kept: Kept, question: Sequence[int], *, start: int | None = None, new_tokens: int = 4) -> float:
    """Time to read one follow-up behind a cache that has been compressed and to answer with so many tokens, seconds."""
    kept.check(context)
    reading = _Reading(context, [kept], context.following if start is None else start)
    if context.lvlm.device.type == "cuda":
        torch.cuda.synchronize(context.lvlm.device)
    began = time.perf_counter()
    tokens = torch.tensor([list(question)])
    for _ in range(new_tokens):
        tokens = reading.feed(tokens).argmax(-1).cpu()[:, None]
    return time.perf_counter() - began


def _batches(context: Context, kept: Sequence[Kept], questions: Sequence[Sequence[int]], batch_bytes: int) -> Iterator[list[tuple[int, int]]]:
    """Rows (kept part, question) that go together: questions of one length, parts of like size; with a picture to cross to, or all without."""
    for part in kept:
        part.check(context)
    if not all(questions):
        raise HeadflowError("compression: a follow-up question has no tokens")
    sizes = [part.bytes(context) for part in kept]
    seen = [context.cross and bool(part.image.any()) for part in kept]
    order = sorted(range(len(kept)), key=lambda which: (seen[which], sizes[which]))
    lengths = sorted({len(question) for question in questions})
    for length, sees in itertools.product(lengths, (False, True)):
        asked = [place for place, question in enumerate(questions) if len(question) == length]
        rows: list[tuple[int, int]] = []
        for which in (which for which in order if seen[which] == sees):
            for place in asked:
                # Every row is padded to the largest, which is the last.
                if (rows and (len(rows) + 1) * max(1, sizes[which]) > batch_bytes) or len(rows) >= _MOST_ROWS:
                    yield rows
                    rows = []
                rows.append((which, place))
        if rows:
            yield rows


def _halving(
    context: Context, kept: Sequence[Kept], questions: Sequence[Sequence[int]], rows: list[tuple[int, int]], start: int, steps: int
) -> Iterator[tuple[list[tuple[int, int]], Int[Tensor, "rows steps"]]]:
    try:
        reading = _Reading(context, [kept[which] for which, _ in rows], start)
        yield rows, _grow(reading, torch.tensor([list(questions[asked]) for _, asked in rows]), steps)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            raise HeadflowError(f"out of memory while one follow-up question is read behind {kept[rows[0][0]].tokens} tokens: use bfloat16") from error
    torch.cuda.empty_cache()
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        yield from _halving(context, kept, questions, half, start, steps)


def _grow(reading: "_Reading", questions: Int[Tensor, "rows asked"], steps: int) -> Int[Tensor, "rows steps"]:
    """Read the questions and let the answers grow until they end; −1 stands after each one's last token."""
    ends = torch.tensor(sorted(reading.context.lvlm.end_tokens), dtype=torch.long)
    said = torch.full((len(questions), steps), _NOTHING)
    going, tokens = torch.ones(len(questions), dtype=torch.bool), questions
    for step in range(steps):
        tokens = reading.feed(tokens).argmax(-1).cpu()[:, None]
        going &= ~torch.isin(tokens[:, 0], ends)
        said[going, step] = tokens[going, 0]
        if not going.any():
            break
    return said


class _Reading:
    """Rows of one batch that read on behind their kept parts."""

    def __init__(self, context: Context, kept: Sequence[Kept], start: int) -> None:
        self.context, self.following = context, start
        lvlm = context.lvlm
        self.axes = context.position_ids.shape[:-2]
        crossing = frozenset(lvlm.image_layers or ())
        keys, values, places = [], [], []
        for layer in range(lvlm.decoder_layers):
            rows = torch.nn.utils.rnn.pad_sequence([part.places(context, layer) for part in kept], batch_first=True, padding_value=GONE)
            places.append(rows.to(context.keys[layer].device))
            left_out = layer in crossing and not rows.shape[1]
            for parts, found in ((context.keys, keys), (context.values, values)):
                found.append(None if left_out else parts[layer][:, places[-1].clamp_min(0)].transpose(0, 1).contiguous())
        self.columns = Columns(places, crossing, len(context.ids))
        self.cache = CompressedCache(keys, values, len(context.ids))

    def feed(self, tokens: Int[Tensor, "rows new"]) -> Float[Tensor, "rows vocabulary"]:
        """Let every row read on; logits of what comes next, float32."""
        lvlm, (rows, new) = self.context.lvlm, tokens.shape
        positions = torch.arange(self.following, self.following + new, device=lvlm.device).expand(*self.axes, rows, -1)
        with behind(lvlm.decoder, self.columns):
            output = lvlm.model(input_ids=tokens.to(lvlm.device), position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache.advance(new)
        self.following += new
        return output.logits[:, -1].float()
