"""What is to be judged of a model's descriptions, and the table of what judges say."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from headflow.errors import HeadflowError
from headflow.judging.judgement import Judgement, Pair
from headflow.tables.judgements import JUDGEMENTS

STOCK = -1
"""Index that stands for no knockout."""


@dataclass(frozen=True)
class Question:
    """One description and what it is held against."""

    id: str
    scene: int
    knockout: int
    against: str
    pair: Pair


@dataclass(frozen=True)
class Described:
    """Descriptions of one model: the stock ones, those under knockouts, and the examples with their true objects.

    Raises:
        HeadflowError: there is nothing to judge, or descriptions of pictures that are not there.
    """

    stock: pl.DataFrame
    knocked_out: pl.DataFrame
    examples: pl.DataFrame

    def __post_init__(self) -> None:
        if not len(self.stock):
            raise HeadflowError("there are no descriptions to judge; see the stage describe_images")
        for name, frame, known in (("knocked-out descriptions", self.knocked_out, self.stock), ("descriptions", self.stock, self.examples)):
            if unknown := sorted(set(frame["id"]) - set(known["id"])):
                raise HeadflowError(f"{name}: example {unknown[0]} is unknown to the stage before; run `dvc repro` again")

    @property
    def pictures(self) -> int:
        return len(self.stock)

    @cached_property
    def truth(self) -> dict[str, tuple[str, ...]]:
        """The true objects of each described picture, each once; pictures whose objects are not known are left out."""
        rows = self.examples.filter(pl.col("id").is_in(self.stock["id"].to_list()))
        named = rows.select("id", pl.col("objects").list.eval(pl.element().struct.field("name")))
        return {id: tuple(dict.fromkeys(filter(None, names))) for id, names in named.iter_rows() if names and any(names)}

    @property
    def true_names(self) -> list[str]:
        """Every object that a described picture shows."""
        return sorted({name for names in self.truth.values() for name in names})


def pairs_of(described: Described) -> list[Question]:
    """All that is to be judged: stock descriptions against the truth; those under knockouts against the stock one and the truth."""
    said = dict(described.stock.select("id", "description").iter_rows())
    everything = [
        *((id, scene, STOCK, text) for id, scene, text in described.stock.select("id", "scene", "description").iter_rows()),
        *described.knocked_out.select("id", "scene", "knockout", "description").iter_rows(),
    ]
    asked = []
    for id, scene, knockout, text in everything:
        if knockout != STOCK:
            asked.append(Question(id, scene, knockout, "stock", (said[id], text)))
        if id in described.truth:
            asked.append(Question(id, scene, knockout, "truth", (described.truth[id], text)))
    return asked


def judgement_rows(asked: Sequence[Question], judged: Sequence[Judgement], judge: str) -> pl.DataFrame:
    """The judgements table of one judge."""
    rows = [
        {
            "id": question.id, "scene": question.scene, "knockout": question.knockout, "against": question.against, "judge": judge,
            "true_positives": found.true_positives, "false_negatives": found.false_negatives, "false_positives": found.false_positives, "f1": found.f1,
            "objects": list(found.said), "expected": list(found.expected), "found": list(found.found), "extra": list(found.extra),
        }
        for question, found in zip(asked, judged, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in JUDGEMENTS.columns.items()})
