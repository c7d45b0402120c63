"""Pictures, questions and true answers, with the exact mask of every object."""

import polars as pl

from headflow.datasets.scenes.examples import make_examples
from headflow.files import write_json
from headflow.params import Params
from headflow.tables import EXAMPLES
from stages import paths
from stages.door import enter


def main(params: Params) -> None:
    settings = params.examples
    examples = make_examples(settings.scenes, kinds=settings.questions, count=settings.count, references=settings.references, seed=settings.seed)
    EXAMPLES.write(examples, paths.EXAMPLES)
    explain = examples.filter(pl.col("split") == "explain")
    write_json(
        paths.metrics("prepare_examples"),
        {"scenes": settings.count, "references": settings.references, "examples": len(explain), "object_names": explain["meaning_name"].n_unique()},
    )


if __name__ == "__main__":
    enter(main, per_model=False)
