"""Pictures, questions and true answers; rows of the user's data that were left out."""

import polars as pl

from headflow.datasets.sources import make_examples
from headflow.files import write_json
from headflow.params import Params
from headflow.tables.examples import EXAMPLES, SKIPPED
from stages import paths
from stages.door import enter


def main(params: Params) -> None:
    examples, skipped = make_examples(params.examples)
    EXAMPLES.write(examples, paths.EXAMPLES)
    SKIPPED.write(skipped, paths.DATA / "skipped.parquet")
    explain, references = (examples.filter(pl.col("split") == split) for split in ("explain", "reference"))
    # pictures without names go by their answers
    names = explain["meaning_name" if "meaning_name" in explain.columns else "answer"]
    write_json(
        paths.metrics("prepare_examples"),
        {
            "scenes": explain["scene"].n_unique(),
            "references": references["scene"].n_unique(),
            "examples": len(explain),
            "object_names": names.drop_nulls().n_unique(),
            "skipped": len(skipped),
        },
    )


if __name__ == "__main__":
    enter(main, per_model=False)
