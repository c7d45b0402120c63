"""Progress: one closing line, lines now and then where there is no terminal, found work kept out of the rate."""

import time

import pytest

from headflow.progress import Counter, progress


def test_one_closing_line(capsys):
    with progress("masked forwards (tiny)", 1200, "masks") as bar:
        for _ in range(12):
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("masked forwards (tiny): 1,200/1,200 masks in ")


def test_an_error_shows_how_far_it_came(capsys):
    with pytest.raises(ValueError, match="no"), progress("work", 10, "units") as bar:
        bar.advance(3)
        raise ValueError("no")
    assert "work: 3/10 units in" in capsys.readouterr().err


def test_lines_now_and_then(capsys):
    counter = Counter("work", 100, "units", every_s=0.0)
    counter.advance(25, note="fast")
    time.sleep(0.01)
    counter.advance(25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("work: 25/100  ") and "units/s fast" in lines[0] and lines[0].endswith("s left")
    counter = Counter("work", 100, "units", every_s=60.0)
    counter.advance(25)
    assert capsys.readouterr().err == ""


def test_found_work_is_done_but_no_part_of_the_rate():
    counter = Counter("work", 100, "units", done=10)
    counter.skip(40)
    assert counter.done == 50 and counter.rate == 0
    counter.advance(5)
    assert counter.done == 55
    time.sleep(0.02)
    assert 0 < counter.rate <= 5 / 0.02
