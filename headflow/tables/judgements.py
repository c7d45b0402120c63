"""Which objects descriptions name, as judges see it."""

import polars as pl

from headflow.tables.columns import ID, INT, REAL, TEXT
from headflow.tables.schema import Column, Table

_NAMES = pl.List(pl.String)
_AGAINST = Column(TEXT, "what the description is held against: 'stock' (the untouched model's description) or 'truth' (the picture's true objects)")

JUDGEMENTS = Table(
    "judgements",
    {
        "id": ID, "scene": Column(INT, "index of the picture in its split"),
        "knockout": Column(INT, "index of the knockout that the description was made under; -1 = the stock description, against 'truth' only"),
        "against": _AGAINST, "judge": Column(TEXT, "'match', 'llm' or 'local'"),
        "true_positives": Column(INT, "expected objects that the description names"),
        "false_negatives": Column(INT, "expected objects that it does not name"),
        "false_positives": Column(INT, "other objects that it names"),
        "f1": Column(REAL, "2 TP / (2 TP + FN + FP), 0..1; null where neither side names an object"),
        "objects": Column(_NAMES, "objects that the description names, each once, in the judge's words"),
        "expected": Column(_NAMES, "objects of what it is held against"),
        "found": Column(_NAMES, "the true positives, a part of `expected`"),
        "extra": Column(_NAMES, "the false positives, a part of `objects`"),
    },
)  # fmt: skip

AGREEMENT = Table(
    "agreement of judges",
    {
        "first": Column(TEXT, "one judge"), "second": Column(TEXT, "the other"), "against": _AGAINST,
        "measure": Column(
            TEXT,
            "'decisions' (share of objects expected by both that both find or both miss), 'kappa' (the same beyond chance, Cohen's), 'objects' (share of all "
            "objects listed by either with the same verdict: found, missed, extra) or 'f1' (Pearson's r of the F1 over descriptions)",
        ),
        "value": Column(REAL, "share 0..1, kappa or r -1..1; null where it is not defined, as all decisions or all F1 are the same"),
        "low": Column(REAL, "lower end of its bootstrap interval over pictures; null where it cannot be told"), "high": Column(REAL, "upper end"),
        "count": Column(INT, "decisions, objects, or descriptions that it is taken over"),
        "pictures": Column(INT, "different pictures"),
    },
)  # fmt: skip
