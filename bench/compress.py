"""What a compressed context saves: memory of its keys and values, and time of a follow-up question, against K."""

import numpy as np
import torch

from bench import subjects
from bench.keep import cache_bytes
from bench.timing import interleaved, spread, table
from headflow.models.compression.answering import _Reading, first_logits, seconds
from headflow.models.compression.choice import random_scores, top
from headflow.models.compression.context import Kept, everything, nothing_seen, take_context

PERCENTS = (50, 20, 10, 5, 2)


def run(source: str, *, tiny: bool = False) -> dict:
    """Times faster and smaller than the whole prompt, all in one run, rounds interleaved.

    A follow-up is timed from its first token to its answer's last, alone in its batch as in a conversation, and with many asked side by side, where
    every row has its own copy of the context's keys and values. What is chosen does not matter for time, so it is chosen by chance.

    Args:
        source: the embedded model, whose tokenizer the large one borrows.
        tiny: a smaller model and one round.
    """
    rounds, new, together = (1, 2, 2) if tiny else (5, 4, 8)
    subject = subjects.large(source, layers=2, width=128, patches=14) if tiny else subjects.large(source)
    lvlm = subject.lvlm
    said = list(range(5, 15))
    context = take_context(lvlm, subject.picture, subjects.QUESTION, said)
    scores, question = random_scores(context, "bench", seed=0), list(range(5, 21))
    parts = {"whole prompt": everything(context)}
    parts |= {f"text and {k} %": Kept(context.query(), top(context, scores, k)) for k in PERCENTS}
    parts["text alone"] = nothing_seen(context, context.query())
    stock = lvlm.model(**lvlm.inputs([subject.picture], subjects.QUESTION), use_cache=True)
    if not torch.allclose(first_logits(context, everything(context), [7], start=context.prompt), _next(lvlm, stock, context, 7), atol=1e-3, rtol=1e-3):
        raise AssertionError("the whole prompt is kept, and yet the follow-up reads otherwise than behind the stock model's cache")

    def side_by_side(part: Kept) -> None:
        reading, tokens = _Reading(context, [part] * together, context.following), torch.tensor([question] * together)
        for _ in range(new):
            tokens = reading.feed(tokens).argmax(-1).cpu()[:, None]

    with torch.no_grad():
        taken = {
            "one": {name: [] for name in parts},
            "many": interleaved({name: lambda part=part: side_by_side(part) for name, part in parts.items()}, rounds),
        }
        for number in range(rounds + 1):
            for name, part in parts.items():
                found = seconds(context, part, question, new_tokens=new)
                if number:  # the first round warms up
                    taken["one"][name].append(found)
    held = {name: cache_bytes(_Reading(context, [part], context.following).cache) for name, part in parts.items()}
    figures: dict = {"image_tokens": len(context.candidates), "new_tokens": new, "together": together, "ratios": {}}
    rows = []
    for name, part in parts.items():
        ratios = {kind: [whole / own for whole, own in zip(times["whole prompt"], times[name], strict=True)] for kind, times in taken.items()}
        share = held[name] / held["whole prompt"]
        if held[name] != part.bytes(context):
            raise AssertionError(f"{name}: the cache holds {held[name]} bytes, {part.bytes(context)} were counted")
        figures["ratios"][name] = {**{kind: [float(np.median(r)), min(r), max(r)] for kind, r in ratios.items()}, "tokens": part.tokens, "cache": share}
        times = [f"{1000 * np.median(taken[kind][name]):.0f}" for kind in taken]
        rows.append([name, str(part.tokens), f"{held[name] / 2**20:.2f}", f"{share:.0%}", times[0], spread(ratios["one"]), times[1], spread(ratios["many"])])
    table(
        f"A follow-up of {len(question)} tokens and {new} of an answer behind a picture of {len(context.candidates)} image tokens ({subject.name}); "
        f"times faster than behind the whole prompt, median (range) of {rounds} rounds",
        ["what stays", "context tokens", "keys and values, MiB", "of the whole", "one question, ms", "faster", f"{together} at once, ms", "faster"],
        rows,
    )
    return figures


@torch.no_grad()
def _next(lvlm, stock, context, token: int) -> torch.Tensor:
    """Logits behind the stock model's own cache."""
    positions = torch.full((1, 1), context.prompt, device=lvlm.device)
    ids = torch.tensor([[token]], device=lvlm.device)
    return lvlm.model(input_ids=ids, position_ids=positions, past_key_values=stock.past_key_values, use_cache=True).logits[0, -1].float()
