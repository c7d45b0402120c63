"""Real photographs through every stage: with the embedded model, and with a random checkpoint of LLaVA and its kin."""

from pathlib import Path

import pytest

from tests.families import llava
from tests.pipeline.photographed import check, project_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_folder(tmp_path_factory.mktemp("any_model"))


@pytest.mark.parametrize("name", ["tiny", *(family.name for family in llava.FAMILIES)])
def test_photographs_through_every_stage(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, folder, tmp_path, monkeypatch)
