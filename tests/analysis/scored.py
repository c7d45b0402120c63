"""Tables of knocked-out descriptions and of judgements, made from lists of objects."""

from collections.abc import Sequence

import polars as pl

from headflow.analysis.knockout_plan import Closing
from headflow.analysis.knockout_scores import STOCK
from headflow.execution.said import Saying
from headflow.tables.descriptions import KNOCKED_OUT
from headflow.tables.judgements import JUDGEMENTS
from headflow.tables.schema import Table


def spoken_table(ids: Sequence[str], closings: Sequence[Closing], sayings: Sequence[Sequence[Saying]]) -> pl.DataFrame:
    """A knocked-out descriptions table; the text plays no part."""
    rows = [
        {
            "id": id, "scene": scene, "knockout": number, "route": closing.knockout.route, "first": closing.knockout.first, "stop": closing.knockout.stop,
            "outside": closing.knockout.outside, "last_position": closing.last_position, "description": "", "tokens": saying.tokens,
            "starts": [0] * len(saying.tokens), "stops": [0] * len(saying.tokens), "ended": saying.ended,
        }
        for scene, (id, row) in enumerate(zip(ids, sayings, strict=True)) for number, (closing, saying) in enumerate(zip(closings, row, strict=True))
    ]  # fmt: skip
    return _table(rows, KNOCKED_OUT)


def judged(
    ids: Sequence[str], objects: Sequence[Sequence[Sequence[str]]], stock: Sequence[Sequence[str]], truth: Sequence[Sequence[str]] | None = None,
    judge: str = "match",
) -> pl.DataFrame:  # fmt: skip
    """A judgements table: ``objects[picture][knockout]`` against ``stock[picture]`` and, where it is given, ``truth[picture]``."""
    rows = []
    for scene, id in enumerate(ids):
        for against, expected in (("stock", stock[scene]), *([("truth", truth[scene])] if truth is not None else [])):
            said = list(enumerate(objects[scene]))
            for knockout, named in [(STOCK, stock[scene]), *said] if against == "truth" else said:
                found, extra = [name for name in expected if name in named], [name for name in named if name not in expected]
                counts = len(found), len(expected) - len(found), len(extra)
                size = 2 * counts[0] + counts[1] + counts[2]
                rows.append({
                    "id": id, "scene": scene, "knockout": knockout, "against": against, "judge": judge, "true_positives": counts[0],
                    "false_negatives": counts[1], "false_positives": counts[2], "f1": 2 * counts[0] / size if size else None,
                    "objects": list(named), "expected": list(expected), "found": found, "extra": extra,
                })  # fmt: skip
    return _table(rows, JUDGEMENTS)


def _table(rows: list[dict], table: Table) -> pl.DataFrame:
    """Column by column: lists row by row take polars ten times as long."""
    return pl.DataFrame({name: [row[name] for row in rows] for name in table.columns}, schema={name: column.dtype for name, column in table.columns.items()})
