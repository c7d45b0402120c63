"""Decide which heads are ablated together: the masks of one model."""

from headflow.attribution.masks import mask_table
from headflow.params import Params
from headflow.tables import MASKS
from stages import paths
from stages.door import enter
from stages.model_shape import layers_and_heads


def main(params: Params, model: str) -> None:
    """Write the masks table of ``model``."""
    layers, heads = layers_and_heads(model)
    MASKS.write(mask_table(layers, heads, **params.masks.model_dump()), paths.masks(model))


if __name__ == "__main__":
    enter(main)
