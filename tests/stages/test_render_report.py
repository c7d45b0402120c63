"""The whole report of a made-up run whose every text is hostile, and how the stage fails."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import polars as pl
import pytest
import yaml

from headflow.reporting.definitions import TERMS
from stages import door, render_report
from tests.reporting import synthetic_run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}${alert(3)}\u2028"
FIGURES = ("scenes", "skipped", "prompt", "heads", "top-heads", "layers", "one-at-a-time", "attention", "faithfulness", "areas", "pairs", "pair-grid",
           "pair-fits", "meaning-or-looks", "beyond", "similarities", "map", "separation", "clusters", "stability", "contents", "profiles",
           "metrics")  # fmt: skip
TRUSTED = ("planted", "checks", "held-out", "growth", "effort", "baselines")
"""Figures of the page that says how far to trust the other."""
DRAWN = tuple(figure for figure in FIGURES if figure not in ("scenes", "skipped", "prompt", "stability", "metrics"))
DRAWN_THERE = tuple(figure for figure in TRUSTED if figure != "checks")


class Page(HTMLParser):
    """The elements, text and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def specs(self) -> list[dict]:
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("type") == "application/json"]


def hostile(run: synthetic_run.Run) -> synthetic_run.Run:
    """The same run with hostile text wherever data can put text."""
    spoil = pl.lit(HOSTILE)
    first = pl.int_range(pl.len()) % 10 == 0
    name = {"circle": HOSTILE}
    return run.but(
        examples=run.examples.with_columns(
            (pl.col("question") + spoil).alias("question"),
            pl.when(first).then(spoil).otherwise("answer").alias("answer"),
            pl.col("meaning_name").replace(name),
            pl.col("looks_style").replace({"striped": HOSTILE}),
        ),
        features=run.features.with_columns(spoil.alias("stock_answer"), pl.col("tokens").list.eval(pl.element() + spoil)),
        profiles=run.profiles.with_columns(pl.col("name").replace(name)),
        cluster_names=run.cluster_names.with_columns(pl.col("name").replace(name)),
        unique_effects=run.unique_effects.with_columns(pl.col("label").replace({"looks_style": f"looks_{HOSTILE}"})),
        separation=run.separation.with_columns(pl.col("label").replace({"looks_style": f"looks_{HOSTILE}"})),
        skipped_rows=synthetic_run.skipped((3, HOSTILE, "the picture is truncated"), (8, None, HOSTILE)),
        skipped_examples=synthetic_run.skipped((None, "explain-00099", HOSTILE)),
    )


def write_params(folder: Path) -> None:
    content = {"models": {"tiny": {}, "other": {"id": "somebody/other"}}, "report": {"title": f"Title {HOSTILE}", "scenes": 5}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stage has run."""
    folder = tmp_path_factory.mktemp("project")
    synthetic_run.write(hostile(synthetic_run.make()), folder)
    metrics = folder / "reports/metrics/prepare_model_tiny.json"
    metrics.write_text(json.dumps({HOSTILE: 0.5, "note": HOSTILE}))
    stale = folder / "reports/tiny/figures/stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    write_params(folder)
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent), "HOME": str(folder)}
    done = subprocess.run([sys.executable, "-m", "stages.render_report", "tiny"], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    return (folder / "reports/tiny/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


@pytest.fixture(scope="module")
def trust(folder: Path) -> Page:
    return Page((folder / "reports/tiny/trust.html").read_text(encoding="utf-8"))


def ids(page: Page) -> set[str]:
    return {attributes["id"] for _, attributes in page.elements if attributes.get("id")}


def test_every_figure_and_section_is_there(page):
    found = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(FIGURES) <= set(found) and not set(TRUSTED) & set(found)
    assert {"in-short", "trust", "definitions", "colophon"} <= set(found)
    assert len(found) == len(set(found))
    assert len(page.specs) == len(DRAWN)


def test_what_it_can_be_trusted_for_stands_on_a_page_of_its_own_linked_both_ways(page, trust):
    assert set(TRUSTED) | {"caveats", "definitions"} <= ids(trust) and not set(FIGURES) & ids(trust)
    assert len(trust.specs) == len(DRAWN_THERE)
    links = {attributes["href"] for attributes in trust.all("a") if attributes.get("href")}
    assert all(link[1:] in ids(trust) for link in links if link.startswith("#")) and {link for link in links if link[0] != "#"} == {"index.html"}
    there = {attributes["href"].split("#")[-1] for attributes in page.all("a") if attributes.get("href", "").startswith("trust.html#")}
    assert there == {"planted", "checks", "held-out", "effort", "baselines", "caveats"}
    for caveat in ("A sum stands in for a model.", "“Not seeing” had to be given a meaning.", "Masks leave the model's home ground.", "Intervals are about"):
        assert caveat in trust.text
    assert "finds every carrying head in 2 of 2 circuits" in page.text and "cutting heads one at a time misses" in trust.text.lower()
    assert HOSTILE not in json.dumps(trust.specs) and not [name for _, attributes in trust.elements for name in attributes if name.startswith("on")]


def test_every_figure_has_a_question_a_sentence_and_how_it_was_computed(page):
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert classes.count("says") == classes.count("how") == len(FIGURES) == len(page.all("h3"))
    assert all(spec["description"].count("?") >= 1 for spec in page.specs)


def test_every_link_on_the_page_leads_somewhere(page):
    targets = {attributes["href"] for attributes in page.all("a") if attributes.get("href")}
    assert all(target[1:] in ids(page) for target in targets if target.startswith("#")) and len(targets) > len(FIGURES)
    assert {target.split("#")[0] for target in targets if not target.startswith("#")} == {"../comparison/index.html", "trust.html"}
    assert {f"term-{term}" for term in TERMS} <= ids(page)


def test_nothing_is_loaded_from_anywhere(page, source):
    for name, attributes in page.elements:
        assert name not in ("link", "iframe", "object", "embed", "base", "video", "audio", "source", "form")
        for key, value in attributes.items():
            if key in ("src", "srcset", "data", "poster", "action", "background", "xlink:href"):
                assert value.startswith("data:image/"), (name, key, value)
    styles = "".join(re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL))
    assert "@import" not in styles and "url(" not in styles
    library, own = (text for attributes, text in page.scripts if attributes.get("type") != "application/json")
    assert not re.search(r"\bimport\s*\(|\bimportScripts\b", library), "the library would load code"
    assert "http" not in own and "fetch" not in own
    for name in ("mathjax", "require.min.js", "cdn.jsdelivr", "unpkg", "cdnjs", "googleapis"):
        assert name not in source.lower()
    (policy,) = (attributes["content"] for attributes in page.all("meta") if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe-eval" not in policy


def test_charts_name_no_data_elsewhere(page):
    for spec in page.specs:
        text = json.dumps({key: value for key, value in spec.items() if key not in ("datasets", "$schema")})
        assert '"url": "http' not in text and '"href"' not in text


def test_hostile_text_is_shown_and_never_run(page):
    assert len(page.scripts) == len(DRAWN) + 2, "a script slipped in"
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    # Newlines aside, it stands on the page letter by letter: title, question, answers, tokens, metrics.
    assert page.text.count(HOSTILE) > 20
    assert "49" not in re.findall(r"Title .*", page.text)[0], "a template engine evaluated data"
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in page.specs)


def test_code_is_hidden_but_one_click_away(page, source):
    details = [attributes for attributes in page.all("details") if attributes.get("class") == "code"]
    assert len(details) > len(FIGURES) and all("open" not in attributes for attributes in details)
    for call in (
        "charts.head_grid(run.head_summary, run.unit)",
        "sentences.separation(run.separation, labelled=run.labelled)",
        "runs.load(key, inputs, params)",
    ):
        assert call in page.text


def test_colophon_tells_params_versions_and_model(page):
    for text in (
        "ablation_probability: 0.5",
        "id: embedded",
        "0123456789abcdef",
        "torch ",
        "transformers ",
        "headflow ",
        "seeds",
        "examples 0, ",
        "git commit",
    ):
        assert text in page.text
    assert "somebody/other" not in page.text, "another model's params are no part of this page"
    assert "results.sqlite" not in page.text, "where results are stored is no part of it either"


def test_page_and_pictures_are_small(folder, source):
    assert len(source.encode()) < 10_000_000
    pictures = {path.stem: path for path in (folder / "reports/tiny/figures").iterdir()}
    assert set(pictures) == {*DRAWN, *DRAWN_THERE}, "a figure is missing or an old one lingers"
    for path in pictures.values():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 300_000


def test_the_executed_notebook_is_kept_and_names_no_machine(folder):
    notebook = nbformat.read(folder / "reports/tiny/report.ipynb", as_version=4)
    assert all(output.output_type != "error" for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert str(folder) not in (folder / "reports/tiny/report.ipynb").read_text()


def test_progress_is_shown_and_nothing_to_worry_about(folder):
    shown = (folder / "stderr.txt").read_text()
    assert "100%" in shown and "WARNING" not in shown and "Warning" not in shown


def test_the_template_holds_no_outputs():
    template = nbformat.read(ROOT / "reports/templates/report.ipynb", as_version=4)
    nbformat.validate(template)
    code = [cell for cell in template.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 14


def fail(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the stage where it must fail; the one line it prints."""
    write_params(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["render_report", "tiny"])
    with pytest.raises(SystemExit) as caught:
        door.enter(render_report.main)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert not (folder / "reports" / "tiny").exists()
    return line


def test_a_missing_table_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    synthetic_run.write(synthetic_run.make(), tmp_path)
    (tmp_path / "data/clusters/tiny/separation.parquet").unlink()
    assert fail(tmp_path, monkeypatch, capsys) == "error: data/clusters/tiny/separation.parquet: missing; run `dvc repro` to make it"


def test_a_truncated_table_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    synthetic_run.write(synthetic_run.make(), tmp_path)
    path = tmp_path / "data/examples.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert fail(tmp_path, monkeypatch, capsys).startswith("error: data/examples.parquet: not a readable Parquet file")
