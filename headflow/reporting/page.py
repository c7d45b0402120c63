"""The page: run the notebook, take its figures, and set it as one HTML file that needs nothing else."""

import base64
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import vl_convert
from jupyter_client.kernelspec import NoSuchKernel
from markupsafe import Markup
from nbconvert import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

import headflow
from headflow.errors import HeadflowError
from headflow.files import write_atomically
from headflow.reporting.figure import CHART, VERSION
from headflow.reporting.html import script_json

LARGEST_PAGE = 10_000_000
PAGE, EVERY_PAGE = "page: ", "every page"
"""Tags of a cell that stands on another page than the first, and of one that stands on all."""


def execute(template: Path, notebook: Path, parameters: Mapping[str, Any]) -> NotebookNode:
    """Run ``template`` with ``parameters`` from the current folder and keep it, with its outputs, as ``notebook``.

    Raises:
        HeadflowError: a cell failed; the message says which and why.
    """
    notebook.parent.mkdir(parents=True, exist_ok=True)
    # Paths relative to where the run stands are recorded in the notebook; others would name somebody's machine.
    source, target = os.path.relpath(template), os.path.relpath(notebook)
    try:
        with warnings.catch_warnings(), _kernel_imports_this_headflow():
            warnings.simplefilter("ignore")  # deprecations inside papermill and its client, which no user can act on
            # Kept once, at the end or at an error: to write a growing notebook before and after every cell takes longer than most cells.
            papermill.execute_notebook(
                source, target, parameters=dict(parameters), kernel_name="python3", cwd=".", progress_bar=True, request_save_on_cell_execute=False,
                extra_arguments=["--log-level=ERROR"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        raise HeadflowError(
            f"{target}: cell {error.exec_count} failed with {error.ename}: {' '.join(error.evalue.split())}; open the notebook to see it"
        ) from None
    except (NoSuchKernel, RuntimeError, OSError) as error:
        raise HeadflowError(f"{target}: the notebook could not be run ({' '.join(str(error).split())}); check that ipykernel is installed") from error
    return nbformat.read(notebook, as_version=4)


def figures(notebook: NotebookNode) -> dict[str, bytes]:
    """The PNG of each figure displayed in ``notebook``, by figure id."""
    found = {}
    for output in _outputs(notebook):
        if "image/png" in output.get("data", {}) and "headflow" in output.metadata:
            found[output.metadata["headflow"]["figure"]] = base64.b64decode(output.data["image/png"])
    return found


def part(notebook: NotebookNode, name: str | None) -> NotebookNode:
    """The cells of one page of an executed notebook: those tagged ``name``, or no page's where it is None; cells that show nothing and those
    tagged ``every page`` stand on all pages.

    A notebook can make several pages: cells for another page than the first are tagged with ``page: NAME``.
    """
    kept = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        own = next((tag.removeprefix(PAGE) for tag in tags if tag.startswith(PAGE)), None)
        if own == name or EVERY_PAGE in tags or (cell.cell_type == "code" and not cell.outputs):
            kept.append(cell)
    return nbformat.notebooknode.from_dict(dict(notebook) | {"cells": kept})


def render(notebook: NotebookNode, template: Path, page: Path, title: str) -> None:
    """Set an executed notebook as ``page``, one file without any link to a network.

    Raises:
        HeadflowError: the page would be larger than LARGEST_PAGE.
    """
    exporter = TemplateExporter(template_file=template.name, extra_template_paths=[str(template.parent)], extra_template_basedirs=[])
    exporter.register_filter("script_json", script_json)
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python"))
    resources = {"title": title, "chart": CHART, "bundle": _bundle(), "metadata": {}}
    html, _ = exporter.from_notebook_node(notebook, resources=resources)
    size = len(html.encode())
    if size > LARGEST_PAGE:
        raise HeadflowError(f"{page}: would take {size / 1e6:.1f} MB, more than {LARGEST_PAGE / 1e6:.0f}; show fewer scenes (report.scenes)")
    write_atomically(page, lambda path: path.write_text(html, encoding="utf-8"))


@contextmanager
def _kernel_imports_this_headflow() -> Iterator[None]:
    """A kernel looks into the current folder last, so another headflow that is installed would win over the one that runs."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(headflow.__file__).resolve().parents[1]), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _bundle() -> Markup:
    """Vega, Vega-Lite, vegaEmbed and their tooltips as one script that fits between script tags."""
    script = vl_convert.javascript_bundle(vl_version=VERSION)
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))  # trusted: a library, not data


def _outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
