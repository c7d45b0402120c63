"""Examples as the params ask for them."""

import polars as pl

from headflow.datasets import planted
from headflow.datasets.coco import read_coco
from headflow.datasets.folder import read_folder
from headflow.datasets.huggingface import read_huggingface
from headflow.datasets.scenes import examples as scenes
from headflow.datasets.selection import Examples, Selection
from headflow.errors import HeadflowError
from headflow.params import ExamplesParams
from headflow.tables.examples import SKIPPED


def make_examples(params: ExamplesParams) -> Examples:
    """The examples table of ``params.source``, and the rows left out.

    Raises:
        HeadflowError: see the readers.
    """
    size = params.picture_size
    selection = Selection(params.count, params.references, params.seed, None if size is None else (size[0], size[1]), params.on_bad_example, params.max_pixels)
    match params.source:
        case "folder":
            return read_folder(params.path, selection=selection, **params.folder.model_dump())
        case "coco":
            return read_coco(params.path, selection=selection, **params.coco.model_dump())
        case "huggingface":
            if params.huggingface.id is None:
                raise HeadflowError("examples.huggingface.id names no data set")
            return read_huggingface(selection=selection, **params.huggingface.model_dump())
    if params.source == "planted":
        table = planted.make_examples(count=params.count, references=params.references, seed=params.seed)
    else:
        table = scenes.make_examples(params.scenes, kinds=params.questions, count=params.count, references=params.references, seed=params.seed)
    return Examples(table, pl.DataFrame(schema={name: column.dtype for name, column in SKIPPED.columns.items()}))
