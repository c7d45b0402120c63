"""What the model has to do for the stages about its descriptions, and what of it the result store holds; see :mod:`headflow.cli.stage_work`.

How long a description gets is known only when it is there: tokens are counted as if none ended before the limit.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

from headflow.cli.stored import StoreView
from headflow.cli.work import Empty, Heard, Listed, Missing, Tally, Work, nothing
from headflow.errors import HeadflowError

# Questions about a rendered scene; of other pictures there are two (headflow/datasets/scenes/followups.py, headflow/datasets/mme.py).
_QUESTIONS = {"scenes": 4}


class Described:
    """The pictures that are described, as their stages see them; before the features are there, only how many there are at most."""

    def __init__(self, listed: Listed) -> None:
        self._listed, self.settings = listed, listed.params.describing
        self.pictures: Any = None
        if not listed.known:
            self.count = min(self.settings.pictures, len(listed) if listed.outline is None else listed.outline.examples)
            return
        from stages.pictures import Pictures

        self.pictures = Pictures(listed.params, listed.key)
        # Contexts name the kind of device; nothing else is asked of the model, and it is not loaded.
        self.pictures.model = SimpleNamespace(device=listed.subjects.model.device, processor=self.pictures.processor, capture=missing)
        self.count = len(self.pictures)

    @cached_property
    def said(self) -> dict[str, dict] | None:
        """The rows of the descriptions by their pictures; None where they are not there yet, or of other pictures."""
        if self.pictures is None:
            return None
        from headflow.tables.descriptions import DESCRIPTIONS
        from stages import paths

        try:
            rows = DESCRIPTIONS.read(paths.descriptions_dir(self._listed.key) / "descriptions.parquet")
        except HeadflowError:
            return None
        found = {row["id"]: row for row in rows.iter_rows(named=True)}
        return found if set(self.pictures.rows["id"]) <= set(found) else None

    @cached_property
    def sampling(self) -> Any:
        from stages.pictures import sampling

        return sampling(self.settings)

    def speaker(self, picture: Any) -> Any:
        from headflow.execution.described import Speaker

        return Speaker(picture.id, picture.context, nothing)


@lru_cache(maxsize=1)
def _described(listed: Listed) -> Described:
    return Described(listed)


def missing(*_: object, **__: object) -> Any:
    """Stands for what only the model can do."""
    raise Missing


def _tally(stage: str, store: StoreView, known: bool) -> Tally:
    return Tally(stage, store if known else Empty(), known)


def describe_images(listed: Listed, store: StoreView) -> Work:
    """A record a picture: the tokens of its description."""
    from headflow.execution.described import describe

    described, most = _described(listed), listed.params.describing.max_new_tokens
    tally = _tally("describe_images", store, described.pictures is not None)
    for number in range(described.count):
        tally.example()
        found = _told(lambda done, n=number: describe(store, [described.speaker(described.pictures[n])], **_options(described), done=done), tally)
        tally.bound(1, found, 1 + most, tokens=most)
    tally.work.most = not tally.work.known
    return tally.work


def knock_out_attention(listed: Listed, store: StoreView) -> Work:
    """A record a picture and knockout: the tokens of the description."""
    from headflow.analysis.knockout_plan import knockout_plan
    from headflow.execution.said import say

    settings, described, most = listed.params.knockout, _described(listed), listed.params.describing.max_new_tokens
    closings, _ = knockout_plan(listed.layers, settings.routes, settings.last_position, width=settings.width, stride=settings.stride)
    tally = _tally("knock_out_attention", store, described.pictures is not None)
    for number in range(described.count):
        tally.example()
        found = _told(
            lambda done, n=number: list(
                say(store, [described.speaker(described.pictures[n])], closings, listed.layers, **_options(described), done=done)
            ),
            tally,
        )  # fmt: skip
        tally.bound(len(closings), found, 1 + most, tokens=most * len(closings))
    tally.work.most = not tally.work.known
    return tally.work


def _options(described: Described) -> dict[str, Any]:
    return {"max_new_tokens": described.settings.max_new_tokens, "sampling": described.sampling}


def _told(ask: Callable[[Callable[[int, int], None]], object], tally: Tally) -> int:
    """How many descriptions are found in the store by what tells of its progress."""
    found = 0

    def done(_: int, there: int) -> None:
        nonlocal found
        found += there

    if tally.work.known:
        with suppress(Missing):
            ask(done)
    return found


def share_attention(listed: Listed, store: StoreView) -> Work:
    """Two records for each of the first pictures, one for the others; none where nothing is said."""
    from headflow.execution.looked import StoredLook, code_version

    settings, described, layers, heads = listed.params.sharing, _described(listed), listed.layers, listed.heads
    tally, shown, version = _tally("share_attention", store, described.said is not None), 0, code_version()
    image = _most_image_tokens(listed)
    numbers = layers * heads * 3 + layers * 3 + 7 + layers * (1 + image) + image
    for number in range(described.count):
        looks: tuple[Callable, ...] = ()
        if tally.work.known:
            picture = described.pictures[number]
            if not (tokens := described.said[picture.id]["tokens"]):
                continue
            look = StoredLook(store, picture.context, version, tokens, missing)
            looks = (lambda look=look: look.look("", 0), look.boxes)
        tally.example()
        for wanted, ask in ((numbers, 0), (4 * image, 1))[: 1 + (shown < settings.shown)]:
            tally.bound(1, int(bool(looks) and _there(looks[ask])), wanted)
        shown += 1
    tally.work.most = not tally.work.known
    return tally.work


def _there(ask: Callable[..., object], *arguments: object) -> bool:
    """Whether what is asked for is in the store."""
    try:
        ask(*arguments)
    except Missing:
        return False
    return True


def localise_objects(listed: Listed, store: StoreView) -> Work:
    """A record a mention of a known object: the effects of image tokens on its word. Attention is looked at anew by every run."""
    from stages import paths

    settings, described = listed.params.localising, _described(listed)
    tally = _tally("localise_objects", store, described.said is not None)
    numbers = 1 + listed.layers * _most_image_tokens(listed)
    for mentions, ask in _mentions(listed, described):
        if not mentions:
            continue
        tally.example()
        found = ask(store) if settings.corners else 0
        if settings.corners:
            tally.bound(mentions, found, numbers, gradients=mentions * settings.corners)
        # The description is fed once for attention, and up to each word whose effects are not known.
        tally.work.captures += 1 + (mentions - found if settings.corners else 0)
    work = tally.work
    work.examples_left, work.most = 0, not work.known
    work.done = work.known and work.found_records == work.records and (paths.localisation_dir(listed.key) / "localised.parquet").exists()
    return work


def _mentions(listed: Listed, described: Described) -> list[tuple[int, Callable[[Any], int]]]:
    """Of each picture: known objects that its description names, or may name; and a function that counts those that the store knows."""
    if described.pictures is None:
        # Of scenes it is known how many objects they have at most; of other pictures nothing is.
        scenes = listed.params.examples.source == "scenes"
        return [(len(listed.params.examples.scenes.object_count_shares) if scenes else 0, lambda _: 0)] * described.count
    if described.said is None:
        objects = [row["objects"] or [] for row in described.pictures.rows.iter_rows(named=True)]
        return [(len({item["name"] for item in those if item["name"] is not None and item["mask"] is not None}), lambda _: 0) for those in objects]
    from headflow.analysis.localisation_effects import stored_effects
    from stages.localise_objects import Named

    settings, named, found = listed.params.localising, Named(listed.params, listed.key, described.pictures), []
    options = {"baseline": settings.baseline, "corners": settings.corners, "seed": settings.seed}
    for place, picture in enumerate(described.pictures):
        row, known, _ = named[place]
        upto = [row["tokens"][: one.token + 1] for one in known]

        def count(store: Any, context: str = picture.context, upto: Any = upto) -> int:
            return sum(_there(lambda said=said: stored_effects(store, context, said, nothing, **options)) for said in upto)

        found.append((len(known), count))
    return found


def compress_context(listed: Listed, store: StoreView) -> Work:
    """A record for each picture, way of asking and part of the context; for each question that is asked anew; for each way that is timed."""
    from headflow.models.compression.variants import variants

    settings, described = listed.params.compressing, _described(listed)
    auto, parts = settings.questions == "auto", len(variants(settings.strategies, settings.choose_by, settings.percents))
    # Pictures of a folder are no examples: they are read, and described, when the stage runs.
    known = auto and described.said is not None
    tally, most = _tally("compress_context", store, known), settings.max_new_tokens
    if known:
        asked = _asked(listed, described, store)
    else:
        questions = _QUESTIONS.get(listed.params.examples.source, 2) if auto else 2
        asked = [(questions, len(settings.asking), 0, 0)] * (min(settings.pictures, described.count) if auto else settings.pictures)
    for number, (questions, ways, found, found_short) in enumerate(asked):
        if not questions:  # nothing is said of the picture
            continue
        tally.example()
        many, short = ways * parts, questions + ways * (number < settings.timed)
        # A follow-up is read behind what stays, which is about a masked forward, and answered.
        tally.bound(many, found, 3 + questions * (1 + most), forwards=many * questions, tokens=many * questions * most)
        tally.bound(short, found_short, most)
        tally.work.captures += short - found_short
        if found < many:
            # What image tokens are chosen by.
            tally.work.captures += "attention" in settings.choose_by
            tally.work.gradients += "attribution" in settings.choose_by
        if not auto:
            tally.bound(1, 0, 1 + described.settings.max_new_tokens, tokens=described.settings.max_new_tokens)
    tally.work.most = not known
    return tally.work


def _asked(listed: Listed, described: Described, store: StoreView) -> list[tuple[int, int, int, int]]:
    """Of each picture: questions, ways of asking; and how many records of answers, and of others, the store holds. No questions where nothing is said."""
    from headflow.execution.compressed import StoredConversation
    from stages.compress_context import Plan

    settings, plan, found = listed.params.compressing, Plan(listed.params, listed.key), []
    plan.pictures.model = described.pictures.model
    for number, one in enumerate(plan.asked):
        if not one.said:
            found.append((0, 0, 0, 0))
            continue
        picture, texts = plan.pictures[one.place], [question.text for question in one.questions]
        options = {name: getattr(settings, name) for name in ("keep_description", "go_on_from", "attribution", "max_new_tokens", "seed")}
        # What a conversation goes by; it is never held.
        talk = SimpleNamespace(said=one.said, name=picture.id, picture=None, lvlm=SimpleNamespace(answer_ids=missing), run=missing, seconds=missing, **options)
        long, short = Heard(store), Heard(store)
        answers, others = StoredConversation(long, picture.context, talk), StoredConversation(short, picture.context, talk)
        for asking in plan.ways:
            _there(answers.run, asking, plan.variants, texts)
            if number < settings.timed:
                some = [variant for variant in plan.variants if variant.chosen_by in (None, settings.choose_by[0])]
                _there(others.seconds, asking, some, texts[0])
        for text in texts:
            _there(others.anew, text)
        found.append((len(texts), len(plan.ways), len(long.found), len(short.found)))
    return found


def _most_image_tokens(listed: Listed) -> int:
    rows = listed.rows
    return max((listed.image_tokens(row) for row in rows.iter_rows(named=True)), default=0)
