"""One small run of the whole pipeline in a copy of the project; tests work on copies of that."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from headflow.params import read_params

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "examples": {"count": 8, "references": 6},
    "masks": {"count": 112, "held_out": 32},
    "faithfulness": {"points": 6, "path_points": 2},
    "baselines": {"examples": 3, "masks": 16, "corners": 2, "held_out": 20},
    "clusters": {"permutations": 49},
    "text_tokens": {"count": 16, "corners": 2, "held_out": 20},
    "flow": {"draws": 99},
    "image_tokens": {"count": 16, "corners": 8, "held_out": 20, "top": False},
    "keeping": {"percents": [10.0, 100.0], "draws": 50},
    "reading": {"heads": 2, "examples": 2, "typical": 1, "token_corners": 4, "head_corners": 2, "draws": 50},
    "describing": {"pictures": 4, "max_new_tokens": 24},
    "knockout": {"stride": 3, "draws": 99},
    "judging": {"draws": 50},
    "sharing": {"shown": 2},
    "localising": {"corners": 2, "shown": 2},
    "compressing": {"pictures": 2, "percents": [20.0], "choose_by": ["attention"], "asking": ["fresh"]},
    "report": {"scenes": 4},
}
COPIED = ("headflow", "stages", "data/pictures", "reports/templates", "params.yaml", "dvc.yaml", "pyproject.toml", ".dvc/config", ".dvcignore", ".gitignore")


class Project:
    """A copy of the project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder, with this Python first on the path."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=600)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    @staticmethod
    def environment() -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # Some variables that pytest-xdist or a user's shell set would reach the stages otherwise.
        return {**os.environ, "PATH": path, "PYTHONPATH": "", "DVC_NO_ANALYTICS": "1", "OMP_WAIT_POLICY": "passive"}

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def stages(self, *names: str, key: str | None = "tiny") -> None:
        """Run stages in this process, without the seconds that each process of its own takes to import torch.

        Args:
            key: the model; none for stages that are of all models.
        """
        with contextlib.chdir(self.folder):
            params = read_params(Path("params.yaml"))
            for name in names:
                importlib.import_module(f"stages.{name}").main(params, *([key] if key else []))

    def set_params(self, change: Callable[[dict], object]) -> None:
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def directly_changed(self) -> set[str]:
        """Stages that `dvc status` names: their code, params or what they read is not what it was."""
        return {line.rstrip(":") for line in self.dvc("status").stdout.splitlines() if line.endswith(":") and not line.startswith((" ", "\t"))}

    def changed_stages(self) -> set[str]:
        """Stages that `dvc repro` would run now: those that `dvc status` names for their code or params, and all after them."""
        direct = self.directly_changed()
        lines = self.dvc("dag", "--mermaid", "--full").stdout.splitlines()
        names = dict(part.strip().rstrip('"]').split('["') for part in lines if '["' in part)
        edges = [tuple(part.strip().split("-->")) for part in lines if "-->" in part]
        changed = direct
        while later := {names[b] for a, b in edges if names[a] in changed} - changed:
            changed |= later
        return changed

    def copy(self, folder: Path) -> "Project":
        """A copy without what DVC keeps while a command runs, which another worker may be running here."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=lambda inside, names: {"tmp"} & set(names) if Path(inside).name == ".dvc" else set())
        return Project(folder)


def copy_project(folder: Path) -> Project:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    for key, value in (("user.name", "test"), ("user.email", "test@example.invalid")):
        project.run("git", "config", key, value)
    return project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run to the end with small params. Read only: copy it to change it. Parallel workers share it."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            _finish(folder / "project")
            (folder / "done").touch()
    return Project(folder / "project")


def _finish(folder: Path) -> None:
    project = copy_project(folder)

    def shrink(params: dict) -> None:
        for group, values in SMALL.items():
            params[group].update(values)

    project.set_params(shrink)
    project.dvc("repro")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "first run")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project that a test may change."""
    return finished.copy(tmp_path / "project")
