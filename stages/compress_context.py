"""Follow-up questions about a described picture, behind a part of what the model keeps of it: what is lost, and what is saved?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from headflow.analysis import compression
from headflow.answers import unknown_words
from headflow.datasets.mme import read_mme
from headflow.datasets.scenes.followups import FollowUp, object_questions, scene_questions
from headflow.decoding import decode
from headflow.errors import HeadflowError
from headflow.execution.compressed import StoredConversation
from headflow.execution.fingerprint import digest, digest_json
from headflow.execution.store import ResultStore
from headflow.files import write_csv, write_json
from headflow.models.compression.choice import Chosen
from headflow.models.compression.conversation import Conversation
from headflow.models.compression.turns import has_next_turn
from headflow.models.compression.variants import Variant, variants
from headflow.models.lvlm import LVLM
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.compressing import COMPRESSED_ANSWERS, COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY, COMPRESSED_TIMES
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.schema import Table
from stages import paths
from stages.door import enter
from stages.pictures import PROMPT, Picture, Pictures, sampling

AUTO = "auto"
CHOICES = get_args(Chosen)


@dataclass(frozen=True)
class Asked:
    """A picture with what is said about it (None = not known yet) and asked about it."""

    picture: Picture
    said: list[int] | None
    questions: list[FollowUp]


def main(params: Params, key: str) -> None:
    """Write all answers, accuracy and ACC+ of everything that may stay, differences, times, and metrics of model ``key``."""
    settings, pictures = params.compressing, Pictures(params, key)
    asked, unknown = _known(pictures, _asked(params, key, pictures))
    plan = variants(settings.strategies, settings.choose_by, settings.percents)
    talks = {name: getattr(settings, name) for name in ("keep_description", "go_on_from", "attribution", "max_new_tokens", "seed")}
    rows, times, silent = [], [], 0
    turns = not asked or has_next_turn(pictures.model.processor, asked[0].picture.prompt)
    ways = [asking for asking in settings.asking if turns or asking != "turn"]
    with ResultStore(Path(params.ablation.store)) as store, progress(f"compress context ({key})", len(asked), "pictures") as bar:
        for number, one in enumerate(asked):
            try:
                said = _said(params, store, one)
                if not said:  # where nothing is said nothing is looked at
                    silent += 1
                    continue
                talk = Conversation(pictures.model, one.picture.id, one.picture.row["image"], one.picture.prompt, said, **talks)
                stored, texts = StoredConversation(store, one.picture.context, talk), [question.text for question in one.questions]
                for asking in ways:
                    outcomes = stored.run(asking, plan, texts)
                    for variant, outcome in zip(plan, outcomes, strict=True):
                        sizes = outcome.tokens, outcome.bytes
                        rows += _rows(pictures.model, one, number, asking, variant, sizes, outcome.answers)
                    if number - silent < settings.timed:
                        # Time does not depend on what tokens are chosen by.
                        some = {variant: found for variant, found in zip(plan, outcomes, strict=True) if variant.chosen_by in (None, settings.choose_by[0])}
                        taken = stored.seconds(asking, list(some), texts[0])
                        times += [
                            (asking, *astuple(variant), found.tokens, found.bytes, *map(float, (np.median(row), row.min(), row.max())))
                            for (variant, found), row in zip(some.items(), taken, strict=True)
                        ]
                rows += _rows(pictures.model, one, number, compression.NEW, Variant("full"), (None, None), [stored.anew(text) for text in texts])
            except HeadflowError as error:
                raise HeadflowError(f"picture {one.picture.id}: {error}") from error
            bar.advance()
    answers = _table(rows, COMPRESSED_ANSWERS)
    summary = compression.summary(answers, confidence=settings.confidence)
    folder = paths.compression_dir(key)
    COMPRESSED_ANSWERS.write(answers, folder / "answers.parquet")
    COMPRESSED_SUMMARY.write(summary, folder / "summary.parquet")
    COMPRESSED_DIFFERENCES.write(compression.differences(answers, confidence=settings.confidence), folder / "differences.parquet")
    COMPRESSED_TIMES.write(_times(times), folder / "times.parquet")
    write_csv(plotted(summary), paths.plot("compression", key))
    left_out = {"pictures_not_described": silent, "questions_of_unknown_words": unknown, "turn_not_written": "turn" in settings.asking and not turns}
    write_json(paths.metrics("compress_context", key), {"pictures": answers["picture"].n_unique(), **left_out, **metrics(summary)})


def _asked(params: Params, key: str, pictures: Pictures) -> Iterator[Asked]:
    """What is asked about which picture: about the objects of those described, or what the folder's texts ask."""
    settings = params.compressing
    if settings.questions != AUTO:
        found = read_mme(settings.path, pictures=settings.pictures, seed=settings.seed, max_pixels=params.examples.max_pixels)
        questions = {one.id: list(one.questions) for one in found}
        # The same prompt and the same fingerprints as for the examples, of other pictures.
        columns = {"id": [one.id for one in found], "image": [one.image for one in found], "question": [pictures.settings.prompt or PROMPT] * len(found)}
        pictures.rows = pl.DataFrame(columns, schema={"id": pl.String, "image": pl.Binary, "question": pl.String})
        yield from (Asked(picture, None, questions[picture.id]) for picture in pictures)
        return
    said = DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet")
    tokens = dict(zip(said["id"], said["tokens"].to_list(), strict=True))
    names = sorted({item["name"] for objects in pictures.rows["objects"].to_list() for item in objects or ()})
    for picture in islice(pictures, settings.pictures):
        if picture.id not in tokens:
            raise HeadflowError(f"{paths.descriptions_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
        objects = picture.row["objects"] or []
        if params.examples.source == "scenes":
            questions = scene_questions(picture.id, objects, seed=settings.seed)
        else:
            questions = object_questions(picture.id, objects, names, seed=settings.seed)
        yield Asked(picture, tokens[picture.id], questions)


def _known(pictures: Pictures, asked: Iterable[Asked]) -> tuple[list[Asked], int]:
    """Pictures with the questions whose words the model knows, and how many others there are."""
    found, unknown = [], 0
    for one in asked:
        questions = [question for question in one.questions if not unknown_words(pictures.model.processor, question.text)]
        unknown += len(one.questions) - len(questions)
        if questions:
            found.append(replace(one, questions=questions))
    return found, unknown


def _said(params: Params, store: ResultStore, one: Asked) -> list[int]:
    """The description's tokens: those that are known, or what the untouched model says now."""
    if one.said is not None:
        return one.said
    settings = params.describing
    # Draws go by the picture's name: two copies of one picture are described each in its own words.
    drawn = [settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed, one.picture.id]
    unit = bytes.fromhex(digest(one.picture.context, "description", digest_json(drawn)))[:16]
    found = store.get([unit]).get(unit)
    if found is None:
        options = {"max_new_tokens": settings.max_new_tokens, "sampling": sampling(settings), "examples": [one.picture.id]}
        found = np.array(decode([one.picture.capture()], **options)[0][0], np.float32)
        store.put([(unit, found)])
    return found.astype(int).tolist()


def _rows(
    model: LVLM, one: Asked, number: int, asking: str, variant: Variant, sizes: tuple[int | None, int | None], answers: Sequence[Sequence[int]]
) -> list[tuple]:
    """One row of the answers table for each question."""
    rows = []
    for place, (question, tokens) in enumerate(zip(one.questions, answers, strict=True)):
        answer = model.text(tokens)
        judged = question.category, question.text, question.answer, answer, compression.is_right(answer, question.answer)
        rows.append((one.picture.id, number, asking, *astuple(variant), place, *judged, *sizes))
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
