"""Follow-up questions about a described picture, behind a part of what the model keeps of it: what is lost, and what is saved?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import get_args

import numpy as np
import polars as pl

from headflow.analysis import compression
from headflow.answers import unknown_words
from headflow.datasets.mme import read_mme
from headflow.datasets.scenes.followups import FollowUp, object_questions, scene_questions
from headflow.errors import HeadflowError
from headflow.execution.compressed import StoredConversation
from headflow.execution.described import Speaker, describe
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.files import write_csv, write_json
from headflow.models.compression.choice import Chosen
from headflow.models.compression.conversation import Conversation
from headflow.models.compression.turns import has_next_turn
from headflow.models.compression.variants import Variant, variants
from headflow.params import Params
from headflow.tables.compressing import COMPRESSED_ANSWERS, COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY, COMPRESSED_TIMES
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.schema import Table
from stages import paths
from stages.door import enter
from stages.pictures import PROMPT, Pictures, sampling
from stages.workers import at_work

AUTO = "auto"
CHOICES = get_args(Chosen)


@dataclass(frozen=True)
class Asked:
    """The picture at a place, with what is said about it (None = not known yet) and asked about it."""

    place: int
    id: str
    said: list[int] | None
    questions: list[FollowUp]


def main(params: Params, key: str) -> None:
    """Write all answers, accuracy and ACC+ of everything that may stay, differences, times, and metrics of model ``key``."""
    settings, plan = params.compressing, Plan(params, key)
    rows, times, silent = [], [], 0
    with at_work("stages.compress_context:Talks", params, key, "compress context", len(plan.asked), "pictures") as run:
        for number, (one, found) in enumerate(zip(plan.asked, run([{"picture": number} for number in range(len(plan.asked))]), strict=True)):
            silent += not found["described"]
            for asking, talk in found["talks"].items():
                for variant, told in zip(plan.variants, talk["outcomes"], strict=True):
                    rows += _rows(one, number, asking, variant, (told["tokens"], told["bytes"]), told["answers"])
                times += [
                    (asking, *astuple(variant), told["tokens"], told["bytes"], *taken)
                    for variant, told, taken in zip(plan.variants, talk["outcomes"], talk["seconds"], strict=True) if taken is not None
                ]  # fmt: skip
            if found["described"]:
                rows += _rows(one, number, compression.NEW, Variant("full"), (None, None), found["anew"])
    answers = _table(rows, COMPRESSED_ANSWERS)
    summary = compression.summary(answers, confidence=settings.confidence)
    folder = paths.compression_dir(key)
    COMPRESSED_ANSWERS.write(answers, folder / "answers.parquet")
    COMPRESSED_SUMMARY.write(summary, folder / "summary.parquet")
    COMPRESSED_DIFFERENCES.write(compression.differences(answers, confidence=settings.confidence), folder / "differences.parquet")
    COMPRESSED_TIMES.write(_times(times), folder / "times.parquet")
    write_csv(plotted(summary), paths.plot("compression", key))
    left_out = {"pictures_not_described": silent, "questions_of_unknown_words": plan.unknown, "turn_not_written": "turn" in settings.asking and not plan.turns}
    write_json(paths.metrics("compress_context", key), {"pictures": answers["picture"].n_unique(), **left_out, **metrics(summary)})


class Plan:
    """What is asked about which picture, and behind what: driver and workers plan alike.

    Attributes:
        pictures: all pictures.
        asked: those that something is asked about.
        unknown: questions that are left out, as the model does not know their words.
        variants: what may stay of the context.
        turns: whether the chat template writes a second turn.
        ways: in which follow-ups are asked.
        timed: numbers of the pictures with which a follow-up is timed: the first ones of which something is said.
    """

    def __init__(self, params: Params, key: str) -> None:
        settings, self.pictures = params.compressing, Pictures(params, key)
        self.asked, self.unknown = _known(self.pictures, _asked(params, key, self.pictures))
        self.variants = variants(settings.strategies, settings.choose_by, settings.percents)
        prompt = self.pictures.prompt(self.pictures.rows.row(self.asked[0].place, named=True)) if self.asked else ""
        self.turns = not self.asked or has_next_turn(self.pictures.processor, prompt)
        self.ways = [asking for asking in settings.asking if self.turns or asking != "turn"]
        self.timed = [number for number, one in enumerate(self.asked) if one.said is None or one.said][: settings.timed]


class Talks:
    """What a worker does: all follow-ups about one picture, behind everything that may stay."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.plan = Plan(self.params, key)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        try:
            result = self._talk(unit["picture"], store)
        except HeadflowError as error:
            raise HeadflowError(f"picture {self.plan.asked[unit['picture']].id}: {error}") from error
        count(1, 0)
        return result

    def _talk(self, number: int, store: Records) -> Result:
        settings, plan = self.params.compressing, self.plan
        one, model = plan.asked[number], plan.pictures.model
        picture, said = plan.pictures[one.place], one.said
        if said is None:
            describing = self.params.describing
            options = {"max_new_tokens": describing.max_new_tokens, "sampling": sampling(describing)}
            said = describe(store, [Speaker(picture.id, picture.context, picture.capture)], **options)[0].tokens
        if not said:  # where nothing is said nothing is looked at
            return {"described": False, "talks": {}}
        options = {name: getattr(settings, name) for name in ("keep_description", "go_on_from", "attribution", "max_new_tokens", "seed")}
        stored = StoredConversation(store, picture.context, Conversation(model, picture.id, picture.row["image"], picture.prompt, said, **options))
        texts, talks = [question.text for question in one.questions], {}
        for asking in plan.ways:
            outcomes = [
                {"tokens": found.tokens, "bytes": found.bytes, "answers": [model.text(answer) for answer in found.answers]}
                for found in stored.run(asking, plan.variants, texts)
            ]
            taken: dict[Variant, list[float]] = {}
            if number in plan.timed:
                # Time does not depend on what tokens are chosen by.
                some = [variant for variant in plan.variants if variant.chosen_by in (None, settings.choose_by[0])]
                rounds = stored.seconds(asking, some, texts[0])
                taken = {variant: [*map(float, (np.median(row), row.min(), row.max()))] for variant, row in zip(some, rounds, strict=True)}
            talks[asking] = {"outcomes": outcomes, "seconds": [taken.get(variant) for variant in plan.variants]}
        return {"described": True, "talks": talks, "anew": [model.text(stored.anew(text)) for text in texts]}


def _asked(params: Params, key: str, pictures: Pictures) -> Iterator[Asked]:
    """What is asked about which picture: about the objects of those described, or what the folder's texts ask."""
    settings = params.compressing
    if settings.questions != AUTO:
        found = read_mme(settings.path, pictures=settings.pictures, seed=settings.seed, max_pixels=params.examples.max_pixels)
        questions = {one.id: list(one.questions) for one in found}
        # The same prompt and the same fingerprints as for the examples, of other pictures.
        columns = {"id": [one.id for one in found], "image": [one.image for one in found], "question": [pictures.settings.prompt or PROMPT] * len(found)}
        pictures.rows = pl.DataFrame(columns, schema={"id": pl.String, "image": pl.Binary, "question": pl.String})
        yield from (Asked(place, one.id, None, questions[one.id]) for place, one in enumerate(found))
        return
    said = DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet")
    tokens = dict(zip(said["id"], said["tokens"].to_list(), strict=True))
    names = sorted({item["name"] for objects in pictures.rows["objects"].to_list() for item in objects or ()})
    for place, row in enumerate(pictures.rows.head(settings.pictures).iter_rows(named=True)):
        if row["id"] not in tokens:
            raise HeadflowError(f"{paths.descriptions_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
        objects = row["objects"] or []
        if params.examples.source == "scenes":
            questions = scene_questions(row["id"], objects, seed=settings.seed)
        else:
            questions = object_questions(row["id"], objects, names, seed=settings.seed)
        yield Asked(place, row["id"], tokens[row["id"]], questions)


def _known(pictures: Pictures, asked: Iterable[Asked]) -> tuple[list[Asked], int]:
    """Pictures with the questions whose words the model knows, and how many others there are."""
    found, unknown = [], 0
    for one in asked:
        questions = [question for question in one.questions if not unknown_words(pictures.processor, question.text)]
        unknown += len(one.questions) - len(questions)
        if questions:
            found.append(replace(one, questions=questions))
    return found, unknown


def _rows(one: Asked, number: int, asking: str, variant: Variant, sizes: tuple[int | None, int | None], answers: Sequence[str]) -> list[tuple]:
    """One row of the answers table for each question."""
    rows = []
    for place, (question, answer) in enumerate(zip(one.questions, answers, strict=True)):
        judged = question.category, question.text, question.answer, answer, compression.is_right(answer, question.answer)
        rows.append((one.id, number, asking, *astuple(variant), place, *judged, *sizes))
    return rows


def _table(rows: Sequence[tuple], table: Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in table.columns.items()}, orient="row")


def _times(rows: Sequence[tuple]) -> pl.DataFrame:
    """Means over the pictures timed."""
    names = ["tokens", "bytes", "seconds", "low", "high"]
    schema = {name: COMPRESSED_TIMES.columns[name].dtype for name in [*compression.VARIANT, *names]}
    frame = pl.DataFrame(rows, schema=schema, orient="row", strict=False)
    return frame.group_by(compression.VARIANT, maintain_order=True).agg(pl.col(names).mean(), pl.len().cast(pl.Int64).alias("pictures"))


def plotted(summary: pl.DataFrame) -> pl.DataFrame:
    """Accuracy for `dvc plots`: a row a K, a column a choice of image tokens beside the query tokens; asked in the way that can be told most by."""
    asking = compression.told(summary)
    rows = summary.filter(pl.col("asking") == asking, pl.col("strategy") == "both", pl.col("category") == "all") if asking else summary.clear()
    wide = rows.sort("percent").pivot("chosen_by", index="percent", values="accuracy", maintain_order=True)
    return wide.select("percent", *(pl.col(name) if name in wide.columns else pl.lit(None, pl.Float64).alias(name) for name in CHOICES))


def metrics(summary: pl.DataFrame) -> dict:
    """Way of asking → strategy (→ choice → percent) → accuracy, ACC+, tokens and bytes; and which way the full context answers well enough in."""
    found: dict = {}
    for row in summary.filter(pl.col("category") == "all").iter_rows(named=True):
        place = found.setdefault(row["asking"], {}).setdefault(row["strategy"], {})
        if row["chosen_by"] is not None:
            place = place.setdefault(row["chosen_by"], {}).setdefault(f"{row['percent']:g}", {})
        place.update({name: row[name] for name in ("accuracy", "low", "high", "plus", "tokens", "bytes") if row[name] is not None})
    asking = compression.told(summary)
    enough = asking is not None and found[asking]["full"]["accuracy"] >= compression.ENOUGH
    return {"told_by": asking, "full_answers_well_enough": enough, "ways": found}


if __name__ == "__main__":
    enter(main)
