"""What keeping only some of the image tokens saves: time of an answer, and memory of its keys and values."""

from collections.abc import Callable

import numpy as np

from bench import subjects
from bench.timing import interleaved, spread, table
from headflow.models.keeping import keep_tokens
from headflow.seeds import generator

PERCENTS = (100, 50, 10)


def run(source: str, *, tiny: bool = False) -> dict:
    """Times faster than ``generate`` from the pixels, and how much of its cache is left; all in one run, rounds interleaved.

    An answer is timed from the picture to its last token, vision tower included: by the stock model, and by :func:`keep_tokens` and then
    ``generate``, with scores known beforehand (a position prior) or by the attention of a stock run. The text after the picture is short,
    and the vision tower of this model small: reading the picture is nearly all that the first token waits for.

    Args:
        source: the embedded model, whose tokenizer the large one borrows.
        tiny: a smaller model and one round.
    """
    rounds, new = (1, 4) if tiny else (5, 32)
    subject = subjects.large(source, layers=2, width=128, patches=14) if tiny else subjects.large(source)
    lvlm, image = subject.lvlm, subject.capture.image
    scores = generator(0, "bench keep").random(image.stop - image.start)

    def answer(inputs: dict, tokens: int) -> object:
        return lvlm.model.generate(**inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, return_dict_in_generate=True)

    def stock(tokens: int) -> object:
        lvlm._forget_positions()
        return answer(lvlm.inputs([subject.picture], subjects.QUESTION), tokens)

    def kept(percent: int, tokens: int, how: str = "removed", by: object = scores) -> object:
        return answer(keep_tokens(lvlm, subject.picture, percent, question=subjects.QUESTION, by=by, how=how), tokens)

    works: dict[str, Callable[[int], object]] = {"stock": stock}
    works |= {f"{percent} % removed": lambda tokens, percent=percent: kept(percent, tokens) for percent in PERCENTS}
    works |= {f"{percent} % closed": lambda tokens, percent=percent: kept(percent, tokens, "closed") for percent in PERCENTS[1:]}
    works[f"{PERCENTS[-1]} % removed, by attention"] = lambda tokens: kept(PERCENTS[-1], tokens, by="attention")
    said = {name: work(new) for name, work in works.items()}
    if not np.array_equal(said["stock"].sequences[0, -new:], said["100 % removed"].sequences[0, -new:]):
        raise AssertionError("all image tokens kept, and yet another answer than the stock model's")
    taken = {
        "first": interleaved({name: lambda work=work: work(1) for name, work in works.items()}, rounds),
        "answer": interleaved({name: lambda work=work: work(new) for name, work in works.items()}, rounds),
    }
    bytes_of = {name: cache_bytes(found.past_key_values) for name, found in said.items()}
    figures: dict = {"new_tokens": new, "image_tokens": len(scores), "ratios": {}}
    rows = []
    for name in works:
        ratios = {part: [s / own for s, own in zip(seconds["stock"], seconds[name], strict=True)] for part, seconds in taken.items()}
        share = bytes_of[name] / bytes_of["stock"]
        figures["ratios"][name] = {**{part: [float(np.median(r)), min(r), max(r)] for part, r in ratios.items()}, "cache": share}
        times = [f"{1000 * np.median(taken[part][name]):.0f}" for part in taken]
        rows.append([name, times[0], spread(ratios["first"]), times[1], spread(ratios["answer"]), f"{bytes_of[name] / 2**20:.1f}", f"{share:.0%}"])
    table(
        f"Answers about a picture of {len(scores)} image tokens ({subject.name}); times faster than the stock model, median (range) of {rounds} rounds",
        ["image tokens", "first token, ms", "faster", f"{new} tokens, ms", "faster", "keys and values, MiB", "of stock"],
        rows,
    )
    return figures


def cache_bytes(cache: object) -> int:
    """Bytes of all keys and values."""
    return sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
