"""The report on a single explained example, without any pair of heads and without a record of metrics: fewer figures, and sentences that say why."""

import os
import re
import subprocess
import sys

import pytest

from tests.reporting import further_tables, synthetic_run
from tests.reporting.test_unlabelled import section
from tests.stages.test_render_report import ROOT, write_params


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("one")
    run = synthetic_run.make(scenes=1)
    ids, r = run.fits["id"].to_list(), run.fits["held_out_r"].to_numpy()
    run = run.but(**further_tables.paired(ids, r, found=False), found_planted=None, own_planted=further_tables.planted("redundant"))
    model = {"id": "planted:redundant", "circuit": "redundant", "dtype": "float32", "architecture": "LlavaForConditionalGeneration",
             "layers": synthetic_run.LAYERS, "heads": synthetic_run.HEADS, "fingerprint": "0"}  # fmt: skip
    synthetic_run.write(run, folder, metrics=False, model=model)
    write_params(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "stages.render_report", "tiny"], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {name: (folder / f"reports/tiny/{name}.html").read_text(encoding="utf-8") for name in ("index", "trust")}


@pytest.mark.parametrize(
    ("page", "figure", "said"),
    [
        ("index", "heads", "No head has an interval (there are too few examples)"),
        ("index", "faithfulness", "cannot be told"),
        ("index", "pairs", "No pair of heads stood out enough"),
        ("index", "meaning-or-looks", "it cannot be told"),
        ("index", "stability", "Whether other pictures would give the same clusters cannot be told."),
        ("index", "metrics", "No stage recorded any."),
        ("trust", "planted", "It cannot be told: no planted model was run."),
        ("trust", "own-planted", "finds every carrying head in 1 of 1 circuit"),
        ("trust", "checks", "The run kept no record of its checks."),
        ("trust", "held-out", "in the one example"),
    ],
)
def test_what_one_example_cannot_tell_is_said(page, figure, said, pages):
    assert said in section(pages[page], figure)


def test_no_number_is_missing_from_a_sentence(pages):
    for text in pages.values():
        said = re.findall(r'<p class="says">(.*?)</p>|<li>(.*?)</li>', text)
        assert len(said) > 8
        for sentence in map("".join, said):
            assert not re.search(r"\b(nan|None|null|inf|unknown)\b", sentence), sentence
