"""Answers kept between runs."""

import sqlite3
from pathlib import Path

import pytest

from headflow.errors import HeadflowError
from headflow.judging.cache import AnswerCache


def test_what_is_put_is_found_by_another_process_and_damage_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    cache = AnswerCache(path)
    for index in range(1100):
        cache.put(f"k{index}", "judge", f'{{"n": {index}}} ü')
    assert len(AnswerCache(path).get(f"k{index}" for index in range(-5, 1100))) == 1100
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers SET answer = 'x' WHERE key = 'k7'")
    assert AnswerCache(path).get(["k7", "k8", "none"]) == {"k8": '{"n": 8} ü'}


def test_a_file_that_is_no_cache_is_told(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_text("these are notes, not a database" * 100, encoding="utf-8")
    with pytest.raises(HeadflowError, match=r"answers\.sqlite: the answers of judges cannot be kept there .*judging\.cache"):
        AnswerCache(path)
    with pytest.raises(HeadflowError, match=r"judging\.cache"):
        AnswerCache(path / "below" / "answers.sqlite")
