"""Agreement of two judges: by hand, against scikit-learn and scipy, and the coverage of its intervals."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score

from headflow.judging.agreement import MEASURES, agreement, labels
from headflow.judging.judgement import Judgement
from headflow.judging.table import Question, judgement_rows
from headflow.judging.vocabulary import load_vocabulary

SCENES = load_vocabulary("scenes")
ROOM = [name for name in SCENES.names if name not in ("one", "two", "three", "up", "down", "left", "right")]


def random_judgements(rng: np.random.Generator, pictures: int, each: int, objects: int, noise: float) -> tuple[pl.DataFrame, list]:
    """Two judges of the same descriptions: the second turns each decision of the first over with the chance ``noise``."""
    asked, first, second, decisions = [], [], [], []
    for picture in range(pictures):
        for knockout in range(each):
            expected = tuple(rng.choice(ROOM, objects, replace=False))
            found = rng.random(objects) < rng.random()
            other = found ^ (rng.random(objects) < noise)
            decisions += [(picture, int(a), int(b)) for a, b in zip(found, other, strict=True)]
            asked.append(Question(f"p{picture}", picture, knockout, "stock", ("", "")))
            for judged, kept in ((first, found), (second, other)):
                names = tuple(np.array(expected)[kept])
                judged.append(Judgement(expected, names, names, ()))
    return pl.concat([judgement_rows(asked, first, "match"), judgement_rows(asked, second, "llm")]), decisions


def test_against_scikit_learn_and_scipy() -> None:
    frame, decisions = random_judgements(np.random.default_rng(3), 30, 4, 3, 0.2)
    found = {row["measure"]: row for row in agreement(frame, SCENES, draws=200).iter_rows(named=True)}
    a, b = (np.array([decision[index] for decision in decisions]) for index in (1, 2))
    assert list(found) == list(MEASURES)
    assert found["decisions"]["value"] == pytest.approx((a == b).mean()) and found["decisions"]["count"] == len(a) == 360
    assert found["objects"]["value"] == pytest.approx((a == b).mean())
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(a, b))
    f1 = [frame.filter(pl.col("judge") == judge)["f1"].to_numpy() for judge in ("match", "llm")]
    assert found["f1"]["value"] == pytest.approx(pearsonr(*f1).statistic) and found["f1"]["count"] == 120
    for row in found.values():
        assert row["low"] < row["value"] < row["high"] and row["pictures"] == 30
    assert agreement(frame, SCENES, draws=200).equals(agreement(frame, SCENES, draws=200))


def test_words_are_brought_to_common_names_and_extra_objects_count() -> None:
    asked = [Question("p", 0, 0, "truth", ((), "")), Question("q", 1, 0, "truth", ((), ""))]
    match = [Judgement(("star", "one"), ("star", "T"), ("star",), ("T",)), Judgement(("T",), ("T",), ("T",), ())]
    llm = [Judgement(("Stars", "1"), ("red star", "left arrow"), ("Stars", "1"), ("left arrow", "wall")), Judgement(("T",), (), (), ())]
    frame = pl.concat([judgement_rows(asked, match, "match"), judgement_rows(asked, llm, "llm")])
    found = {row["measure"]: row for row in agreement(frame, SCENES).iter_rows(named=True)}
    # decisions: star found/found, one missed/found, T found/missed; beside them T, left and wall, each listed by one judge alone
    assert (found["decisions"]["value"], found["decisions"]["count"]) == (pytest.approx(1 / 3), 3)
    assert (found["objects"]["value"], found["objects"]["count"]) == (pytest.approx(1 / 6), 6)
    assert found["f1"]["value"] is None
    assert labels({"expected": ["crosses", "a star"], "found": ["a star"], "extra": ["cross", "two walls"]}, SCENES) == {"star": 0, "cross": 1, "two walls": 2}


def test_what_cannot_be_told_is_null() -> None:
    frame, _ = random_judgements(np.random.default_rng(0), 1, 5, 3, 0.3)
    assert agreement(frame.filter(pl.col("judge") == "llm"), SCENES).is_empty()
    for row in agreement(frame, SCENES, draws=99).iter_rows(named=True):
        assert row["value"] is not None and row["low"] is None and row["high"] is None  # one picture
    same = frame.filter(pl.col("judge") == "match").with_columns(found=pl.col("expected"), f1=pl.lit(1.0))
    told = agreement(pl.concat([same, same.with_columns(judge=pl.lit("llm"))]), SCENES, draws=99)
    assert dict(told.select("measure", "value").iter_rows()) == {"decisions": 1.0, "kappa": None, "objects": 1.0, "f1": None}


def test_intervals_cover_the_agreement_behind_the_draws() -> None:
    """The true agreement is 1 − noise; decisions of a picture hang together through nothing, so 95 % intervals hold it about 95 times in 100."""
    held = 0
    for run in range(40):
        frame, _ = random_judgements(np.random.default_rng([5, run]), 30, 1, 3, 0.25)
        row = agreement(frame, SCENES, draws=99, seed=run).row(0, named=True)
        held += row["low"] <= 0.75 <= row["high"]
    assert held >= 34  # at 95 % fewer than 34 of 40 come once in 300 times
