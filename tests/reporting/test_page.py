from pathlib import Path

import nbformat
import pytest

from headflow.errors import HeadflowError
from headflow.reporting import page

TEMPLATE = Path(__file__).resolve().parents[2] / "reports" / "templates" / "report.html.j2"


def notebook(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})


def test_a_failing_cell_is_told_in_one_line_and_the_kernel_imports_this_headflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headflow.py").write_text("raise RuntimeError('another headflow')")
    nbformat.write(notebook("import headflow", "raise ValueError('first line\\nsecond line')"), "broken.ipynb")
    with pytest.raises(HeadflowError) as caught:
        page.execute(Path("broken.ipynb"), Path("out/broken.ipynb"), {})
    assert str(caught.value) == "out/broken.ipynb: cell 2 failed with ValueError: first line second line; open the notebook to see it"


def test_a_page_that_would_be_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGEST_PAGE", 1000)
    with pytest.raises(HeadflowError, match="would take"):
        page.render(notebook("x = 1"), TEMPLATE, tmp_path / "index.html", title="t")
    assert not (tmp_path / "index.html").exists()


def test_code_and_titles_are_escaped(tmp_path):
    page.render(notebook("x = '</pre><script>alert(1)</script>'"), TEMPLATE, tmp_path / "index.html", title="</title><script>alert(2)</script>")
    text = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in text and "&lt;/title&gt;" in text


def test_the_library_script_cannot_end_its_element():
    assert "</script" not in page._bundle() and "<!--" not in page._bundle() and len(page._bundle()) > 500_000
