"""Generation under gates: a sweep of knockouts against ``generate`` without any, and against running everything anew at every step."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from transformers import GenerationConfig

from bench import subjects
from bench.timing import interleaved, spread, table
from headflow.analysis.knockouts import ROUTES, knockout_gates, upward
from headflow.decoding import decode

QUESTION = "Describe the image."
_ANEW = "everything anew at every step"


def run(source: str, *, tiny: bool = False) -> dict:
    """Times slower than the sweep in one batch, per generated token; rounds interleaved.

    The sweep closes each route from each layer upward: all of it shares one prefix, and goes on as one batch. ``generate`` decodes as many
    copies of the prompt, or as many pictures, without any gate, as one batch. A run anew at every step is timed without gates too, on half of
    the answer, so that it is what a plain implementation takes at least; the picture's embeddings are computed once.
    Examples are captured beforehand, once a picture; ``generate`` reads its pictures itself.

    Args:
        source: the embedded model, whose tokenizer the large one borrows.
        tiny: a smaller large model, one round.
    """
    large = {"layers": 2, "width": 128, "patches": 14} if tiny else {"layers": 4, "width": 512}
    rounds, new, pictures = (1, 2, 2) if tiny else (3, 16, 8)
    measured = {"embedded": subjects.embedded(source), "large": subjects.large(source, **large)}
    return {name: _measure(subject, rounds, new, subjects.rendered(pictures)) for name, subject in measured.items()}


def _measure(subject: subjects.Subject, rounds: int, new: int, pictures: list[np.ndarray]) -> dict:
    lvlm = subject.lvlm
    captures = [lvlm.capture(picture, QUESTION) for picture in pictures]
    knockouts = [upward(route, first, lvlm.layers) for route in ROUTES for first in range(lvlm.layers)]
    gates = knockout_gates(captures[0], knockouts)
    ends = sorted(lvlm.end_tokens)
    settings = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=ends, pad_token_id=ends[0])

    def generate(shown: list[np.ndarray]) -> list[list[int]]:
        lvlm._forget_positions()
        inputs = lvlm.inputs(shown, QUESTION)
        return lvlm.model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :].tolist()

    def anew(sequences: int) -> None:
        """One step of ``sequences`` sequences in the middle of their answers."""
        capture = captures[0]
        more = capture.embeddings[:, -1:].expand(-1, new // 2, -1)
        embeddings = torch.cat([capture.embeddings, more], 1).expand(sequences, -1, -1)
        with torch.no_grad():
            lvlm.model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1)

    few = min(4, len(knockouts))  # where every one takes as long as the next
    some = knockout_gates(captures[0], knockouts[:few])
    works: dict[str, Callable[[], object]] = {
        "sweep, one batch": lambda: decode(captures[:1], [gates], max_new_tokens=new)[0],
        "sweep, one knockout at a time": lambda: decode(captures[:1], [some], max_new_tokens=new, batch_size=1)[0],
        "generate, as many copies": lambda: generate(pictures[:1] * len(knockouts)),
        "pictures, no gate": lambda: [said for (said,) in decode(captures, max_new_tokens=new)],
        "generate, the pictures": lambda: generate(pictures),
        _ANEW: lambda: anew(few),
    }
    said = {name: work() for name, work in works.items()}
    until = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in said["generate, the pictures"]]
    if said["pictures, no gate"] != until:
        raise AssertionError("other tokens than those of generate")
    taken = interleaved(works, rounds)
    # The token that ends an answer is generated too.
    tokens = {name: few if name == _ANEW else sum(min(new, len([t for t in row if t not in ends]) + 1) for row in said[name]) for name in works}
    each = {name: [seconds / tokens[name] for seconds in taken[name]] for name in works}
    ratios = {name: [own / sweep for own, sweep in zip(each[name], each["sweep, one batch"], strict=True)] for name in works}
    sequences = {name: few if name == _ANEW else len(said[name]) for name in works}
    table(
        f"{subject.name}, {lvlm.layers} layers: {len(knockouts)} knockouts of one picture, up to {new} tokens; median (range) of {rounds} rounds",
        ["", "sequences", "tokens", "tokens/s", "times slower per token than the sweep"],
        [[name, sequences[name], tokens[name], f"{1 / np.median(each[name]):.0f}", spread(ratios[name])] for name in works],
    )
    return {
        "knockouts": len(knockouts), "tokens_per_second": {name: float(1 / np.median(each[name])) for name in works},
        "ratios": {name: [float(np.median(r)), min(r), max(r)] for name, r in ratios.items()},
    }  # fmt: skip
