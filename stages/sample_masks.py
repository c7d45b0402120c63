"""Decide which heads are ablated together: the masks of one model."""

from headflow.attribution.masks import mask_table
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.tables.ablations import MASKS
from stages import paths
from stages.door import enter


def main(params: Params, model: str) -> None:
    """Write the masks table of ``model``."""
    prepared = read_prepared(paths.model_dir(model))
    MASKS.write(mask_table(prepared.layers, prepared.heads, **params.masks.model_dump(exclude={"precision"})), paths.masks(model))


if __name__ == "__main__":
    enter(main)
