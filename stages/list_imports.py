"""Which modules each stage is made of: a stage runs again when one of its own changes, and only then.

Every other stage depends on its list alone. So no list of modules in dvc.yaml can be out of date; and `dvc.lock`, which DVC reads and writes whole
for each stage that it runs, does not name all modules once for each stage and model.
"""

import hashlib
import shutil
from pathlib import Path

from headflow.errors import HeadflowError
from headflow.files import write_json
from headflow.imports import closure, import_graph
from headflow.params import Params
from stages import paths
from stages.door import enter


def main(params: Params) -> None:
    """Write the modules that each file of ``stages/`` imports, itself or through its notebooks, each with the SHA-256 of its content."""
    files = sorted(Path("stages").glob("*.py"))
    if not files:
        raise HeadflowError("stages: there are none here; run this from the project's folder")
    graph = import_graph(Path(), *files)
    content = {path: path.read_bytes() for path in graph if path.suffix == ".py"}
    digests = {path: hashlib.sha256(text).hexdigest() for path, text in content.items() if text.strip()}
    shutil.rmtree(paths.IMPORTS, ignore_errors=True)
    for file in files:
        if file in digests:
            write_json(paths.imports(file.stem), {path.as_posix(): digests[path] for path in closure(graph, file) if path in digests})


if __name__ == "__main__":
    enter(main, per_model=False)
