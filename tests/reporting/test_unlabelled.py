"""The report on a folder of photographs without labels: every section either shows something true or says why it shows nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.reporting import synthetic_run, unlabelled_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    synthetic_run.write(unlabelled_run.make(), folder, "photos", model=unlabelled_run.MODEL)
    (folder / "params.yaml").write_text(yaml.safe_dump(unlabelled_run.PARAMS), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "stages.render_report", "photos"], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "reports/photos/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trust(folder: Path) -> str:
    return (folder / "reports/photos/trust.html").read_text(encoding="utf-8")


def section(page: str, figure: str) -> str:
    """The part of the page under a figure's heading."""
    return page.split(f'id="{figure}"', 1)[1].split("<h3", 1)[0].split('<details class="code"', 1)[0]


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("growth", "It cannot be told: only one number of masks was fitted."),
        ("planted", "It cannot be told: no planted model was run."),
        ("baselines", "Whether the choice of baseline matters cannot be told"),
        ("clusters", "No grouping was found"),
        ("pairs", "No pair of heads stood out enough"),
        ("pair-fits", "There is no pair to add, so the fit stays as it is"),
        ("stability", "No cluster structure"),
        ("contents", "There is one group only"),
        ("meaning-or-looks", "it cannot be told, as the examples do not carry labels of both kinds"),
    ],
)
def test_sections_without_data_say_so_and_draw_nothing(figure, said, page, trust, folder):
    text = section(page + trust, figure)
    assert said in text and 'class="chart"' not in text and "How:" not in text
    assert not (folder / f"reports/photos/figures/{figure}.png").exists()


def test_the_other_figures_are_drawn(folder):
    drawn = {path.stem for path in (folder / "reports/photos/figures").iterdir()}
    assert drawn == {"held-out", "effort", "heads", "top-heads", "layers", "one-at-a-time", "attention", "faithfulness", "areas", "profiles", "map"}


def test_what_hangs_on_pairs_or_labels_is_left_out_where_there_are_none(page):
    assert "Which heads stand in for each other" in page and "Is it meaning or looks?" in page
    for figure in ("pair-grid", "beyond", "similarities", "separation"):
        assert f'id="{figure}"' not in page


def test_examples_are_shown_as_photographs_with_their_own_questions(page):
    text = section(page, "scenes")
    assert "scenes photographs" in text and text.count("data:image/jpeg") == 8
    assert "What is the roof made of?" in text and "blue, green and gold" in text
    assert "4 wrong answers are explained all the same" in text


def test_skipped_rows_and_examples_are_listed(page):
    text = section(page, "skipped")
    for said in ("2 rows of the data were faulty and 1 example could not be put", "holiday.jpg", "image file is truncated", "explain-00013"):
        assert said in text


def test_the_target_is_the_whole_answer_of_the_model_itself_in_nats(page, trust):
    assert "log-probability of the whole of the model&#39;s own answer" in page
    assert "Long answers weigh more." in trust and "What the model says is explained, right or wrong." in trust
    assert "logit of the" not in section(page, "heads") and "+1.41 nats" in section(page, "heads")
    assert "tokens are of the answer, fed to the model" in section(page, "prompt") and " → " not in section(page, "prompt")


def test_things_go_by_their_answers(page):
    assert "Whether heads differ between answers cannot be told: too few answers occur twice." in section(page, "profiles")
    assert "main object" not in re.sub(r"What is the main object in the image\?", "", section(page, "profiles"))


def test_how_the_model_was_run_is_told_and_foreign_code_warned_of(page):
    text = page.split('id="colophon"', 1)[1]
    for said in ("This run executed code that came with the model", "bfloat16, quantised to 4bit", "sdpa in the untouched model", "balanced",
                 "28 layers of 28 heads, all layers of the decoder", "shared by all masked runs"):  # fmt: skip
        assert said in text


def test_the_page_stays_small(page):
    assert len(page.encode()) < 3_000_000
