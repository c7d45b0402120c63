"""Descriptions under knockouts: what decoding says, kept at once, continued where it stopped, and never decoded twice."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headflow.analysis.knockout_plan import Closing, knockout_plan
from headflow.analysis.knockouts import ROUTES, knockout_gates
from headflow.decoding import Sampling, decode
from headflow.errors import HeadflowError
from headflow.execution import said
from headflow.execution.described import Saying, Speaker, describe, read, record
from headflow.execution.said import say
from headflow.execution.store import ResultStore
from headflow.models.capture import Capture
from tests.checkpoints import QUESTION
from tests.conftest import random_picture

STEPS = 6


@pytest.fixture
def three(models) -> list[Capture]:
    lvlm = models("gqa")
    return [lvlm.capture(random_picture(seed), question) for seed, question in ((1, QUESTION), (2, QUESTION), (1, "Which colour is it?"))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResultStore]:
    with ResultStore(tmp_path / "store.sqlite") as opened:
        yield opened


class Asked:
    """Speakers that note when they are captured, and what is told of progress."""

    def __init__(self, captures: list[Capture], stop_at: int | None = None) -> None:
        self.captures, self.stop_at, self.captured = captures, stop_at, []
        self.computed = self.found = 0

    def __iter__(self) -> Iterator[Speaker]:
        for place, capture in enumerate(self.captures):

            def take(place: int = place, capture: Capture = capture) -> Capture:
                if place == self.stop_at:
                    raise KeyboardInterrupt
                self.captured.append(place)
                return capture

            yield Speaker(f"picture-{place}", f"context {place}", take)

    def done(self, computed: int, found: int) -> None:
        self.computed += computed
        self.found += found


def told(store: ResultStore, asked: Asked, closings: list[Closing], **options: object) -> list[list[Saying]]:
    return list(say(store, asked, closings, asked.captures[0].lvlm.layers, done=asked.done, **{"max_new_tokens": STEPS, **options}))


def by_hand(captures: list[Capture], closings: list[Closing], **options: object) -> list[list[Saying]]:
    """One picture, and one last position, at a time."""
    options, found = {"max_new_tokens": STEPS, **options}, []
    for place, capture in enumerate(captures):
        said = {}
        for last in {closing.last_position for closing in closings}:
            mine = [closing.knockout for closing in closings if closing.last_position == last]
            [rows] = decode([capture], [knockout_gates(capture, mine, last_position=last)], examples=[f"picture-{place}"], **options)
            said |= {Closing(knockout, last): Saying(tokens, len(tokens) < options["max_new_tokens"]) for knockout, tokens in zip(mine, rows, strict=True)}
        found.append([said[closing] for closing in closings])
    return found


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=3.0, seed=1)])
def test_it_is_what_decoding_says_and_is_decoded_once(three, store, sampling, monkeypatch):
    # A token that ends some of them early.
    lvlm = three[0].lvlm
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", decode(three[:1], max_new_tokens=3)[0][0][2])
    closings, _ = knockout_plan(lvlm.layers, ROUTES, ("query", "generated"), width=1)
    expected = by_hand(three, closings, sampling=sampling)
    first = Asked(three)
    assert told(store, first, closings, sampling=sampling) == expected
    assert (first.computed, first.found) == (3 * len(closings), 0) and first.captured == [0, 1, 2]
    assert {saying.ended for row in expected for saying in row} == {True, False} and len({tuple(saying.tokens) for row in expected for saying in row}) > 6
    again = Asked(three)
    assert told(store, again, closings, sampling=sampling) == expected
    assert (again.computed, again.found) == (0, 3 * len(closings)) and not again.captured
    other = Asked(three[:1])
    told(store, other, closings[:2], sampling=Sampling(temperature=3.0, seed=2))
    assert other.computed == 2


def test_a_wider_sweep_decodes_what_is_new(three, store):
    layers = three[0].lvlm.layers
    narrow, _ = knockout_plan(layers, ["img→gen"], ["query"], stride=2)
    wide, _ = knockout_plan(layers, ROUTES, ("query", "generated"))
    told(store, Asked(three), narrow)
    asked = Asked(three)
    found = told(store, asked, wide)
    shared = {closing.edges(layers) for closing in narrow} & {closing.edges(layers) for closing in wide}
    assert 3 <= len(shared) < len(wide) and asked.found == 3 * len(shared) and asked.computed == 3 * (len(wide) - len(shared))
    assert found == by_hand(three, wide)


def test_a_run_that_was_stopped_goes_on(three, store):
    closings, _ = knockout_plan(three[0].lvlm.layers, ROUTES, ["query"])
    half = len(closings) // 2
    stopped = Asked(three, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        told(store, stopped, closings, batch_size=half)
    # Whole batches are kept, though the second picture may not be complete.
    assert stopped.computed == len(store) == 2 * len(closings) // half * half > len(closings)
    asked = Asked(three)
    assert told(store, asked, closings) == by_hand(three, closings)
    assert asked.found == stopped.computed and asked.computed == 3 * len(closings) - stopped.computed


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_batches_change_nothing_and_pictures_come_out_as_soon_as_they_are_done(three, store, batch_size):
    closings, _ = knockout_plan(three[0].lvlm.layers, ["img→gen", "img→query"], ["generated"], width=2)
    asked = Asked(three)
    stream = say(store, asked, closings, three[0].lvlm.layers, max_new_tokens=STEPS, batch_size=batch_size, done=asked.done)
    first = next(stream)
    assert len(asked.captured) == {7: 2, 1000: 3}[batch_size]
    assert [first, *stream] == by_hand(three, closings)


def test_waiting_captures_take_no_more_than_their_share_of_memory(three, store, monkeypatch):
    closings, _ = knockout_plan(three[0].lvlm.layers, ["img→gen"], ["query"])
    monkeypatch.setattr(said, "_CPU_BYTES", 1.5 * said._bytes(three[0]))
    asked = Asked([three[0], three[1], three[0], three[1]])
    stream = say(store, asked, closings, three[0].lvlm.layers, max_new_tokens=STEPS, batch_size=1000, done=asked.done)
    next(stream)
    assert asked.captured == [0, 1]


def test_lengths(three, store, monkeypatch):
    """A description that was cut off is decoded anew where more is asked for; one that ended, or a longer one, serves."""
    lvlm = three[0].lvlm
    stock = decode(three[:1], max_new_tokens=STEPS)[0][0]
    closings, _ = knockout_plan(lvlm.layers, ["img→gen"], ["query"])
    (first,) = told(store, Asked(three[:1]), closings)
    assert not all(saying.ended for saying in first)
    shorter = Asked(three[:1])
    cut = told(store, shorter, closings, max_new_tokens=2)
    assert shorter.computed == 0 and cut == by_hand(three[:1], closings, max_new_tokens=2) and not any(saying.ended for saying in cut[0])
    longer = Asked(three[:1])
    assert told(store, longer, closings, max_new_tokens=STEPS + 2) == by_hand(three[:1], closings, max_new_tokens=STEPS + 2)
    assert longer.computed == sum(not saying.ended for saying in first)
    kept = Asked(three[:1])
    assert told(store, kept, closings) == [first]  # the longer ones took the shorter ones' places
    assert kept.computed == 0
    # Ended ones: the limit no longer matters, but for the one that has just as many tokens.
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", stock[3])
    ending, lone = [Speaker("ends", "ends", lambda: three[0])], [closings[-1]]
    count = stock.index(stock[3])

    def at_most(limit: int) -> tuple[Saying, int]:
        asked = Asked(three)
        ((saying,),) = say(store, ending, lone, lvlm.layers, max_new_tokens=limit, done=asked.done)
        return saying, asked.computed

    nothing = next(closing for closing in closings if closing.edges(lvlm.layers) == "nothing")
    lone[:] = [nothing]
    assert at_most(STEPS) == (Saying(stock[:count], True), 1)
    assert at_most(50) == (Saying(stock[:count], True), 0) and at_most(count + 1) == (Saying(stock[:count], True), 0)
    assert at_most(count) == (Saying(stock[:count], False), 0)


def test_records_hold_token_numbers_exactly():
    tokens = [0, 1, 2**24 - 1, 2**23 + 1, 151_643]
    assert read(record(tokens, 9).astype("<f4"), 9) == Saying(tokens, True)
    assert read(record(tokens, 5), 5) == Saying(tokens, False) and read(record(tokens, 5), 6) is None
    assert read(None, 5) is None and read(np.zeros(0, np.float32), 5) is None
    assert read(record([], 5), 5) == Saying([], True)
    with pytest.raises(HeadflowError, match="token 16777216 cannot be stored"):
        record([3, 2**24], 5)


def test_a_picture_that_fails_is_named(three, store):
    closings, _ = knockout_plan(three[0].lvlm.layers, ["img→gen"], ["query"])

    def unreadable() -> Capture:
        raise HeadflowError("not a readable picture")

    with pytest.raises(HeadflowError, match="picture odd: not a readable picture"):
        list(say(store, [Speaker("odd", "x", unreadable)], closings, three[0].lvlm.layers, max_new_tokens=2))
    answered = three[0].lvlm.capture(random_picture(1), QUESTION, answer=[5, 6])
    with pytest.raises(HeadflowError, match="picture fed: decode: an example is captured with an answer"):
        list(say(store, [Speaker("fed", "y", lambda: answered)], closings, three[0].lvlm.layers, max_new_tokens=2))


def test_untouched_descriptions_are_kept_and_only_new_ones_are_decoded(three, store):
    expected = [[Saying(tokens, len(tokens) < STEPS)] for [tokens] in decode(three, max_new_tokens=STEPS)]
    first = Asked(three[:2])
    assert describe(store, list(first), max_new_tokens=STEPS, done=first.done) == [saying for [saying] in expected[:2]]
    assert (first.computed, first.found, len(store)) == (2, 0, 2)
    # One more picture; then fewer tokens, which the longer ones serve.
    more = Asked(three)
    assert describe(store, list(more), max_new_tokens=STEPS, done=more.done) == [saying for [saying] in expected]
    assert (more.computed, more.found) == (1, 2) and more.captured == [2]
    fewer = Asked(three)
    assert describe(store, list(fewer), max_new_tokens=2, done=fewer.done) == [Saying(saying.tokens[:2], False) for [saying] in expected]
    assert not fewer.captured
    # Draws are kept apart from what is most likely, and from those of other seeds.
    for seed in (1, 2):
        drawn = Asked(three[:1])
        sampling = Sampling(temperature=3.0, seed=seed)
        [[tokens]] = decode(three[:1], max_new_tokens=STEPS, sampling=sampling, examples=["picture-0"])
        assert describe(store, list(drawn), max_new_tokens=STEPS, sampling=sampling, done=drawn.done)[0].tokens == tokens and drawn.computed == 1
