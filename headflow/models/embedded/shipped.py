"""The trained checkpoint that comes with headflow. Needs neither torch nor transformers."""

from pathlib import Path

from headflow.errors import HeadflowError
from headflow.models.embedded.recipe import Recipe, read_recipe
from headflow.models.embedded.sealing import copy_sealed, verify

SHIPPED_FOLDER = Path(__file__).parent / "checkpoint"
METRICS_FILE = "metrics.json"
"""Name of the file with a checkpoint's measured quality (see ``evaluation.evaluate``)."""


def install(target: Path, recipe: Recipe | None = None) -> None:
    """Write the shipped checkpoint to ``target``, a folder that ``AutoProcessor`` and ``AutoModelForImageTextToText`` load.

    Args:
        target: made if missing; files of the same names are replaced.
        recipe: what the caller expects the checkpoint to be trained with; None accepts it as it is.

    Raises:
        HeadflowError: the checkpoint is damaged or incomplete, or was trained with another recipe.
    """
    verify(SHIPPED_FOLDER)
    shipped = read_recipe(SHIPPED_FOLDER)
    if recipe is not None and recipe.fingerprint != shipped.fingerprint:
        raise HeadflowError(f"the shipped model was trained with another recipe ({_difference(shipped, recipe)}); train one, or take the default recipe")
    copy_sealed(SHIPPED_FOLDER, target)


def ship(source: Path) -> None:
    """Make the trained checkpoint in ``source`` the shipped one (for maintainers: it writes into the installed package).

    Raises:
        HeadflowError: ``source`` is damaged or incomplete, or was not trained with the default recipe.
    """
    verify(source)
    if (trained := read_recipe(source)).fingerprint != Recipe().fingerprint:
        raise HeadflowError(f"{source}: not trained with the default recipe ({_difference(Recipe(), trained)}); only that one is shipped")
    if SHIPPED_FOLDER.exists():
        for path in SHIPPED_FOLDER.iterdir():
            path.unlink()
    copy_sealed(source, SHIPPED_FOLDER)


def _difference(expected: Recipe, other: Recipe) -> str:
    """The fields in which two recipes differ."""
    pairs = {key: (value, getattr(other, key)) for key, value in expected}
    return ", ".join(f"{key} {found!r}, not {value!r}" for key, (value, found) in pairs.items() if value != found)
