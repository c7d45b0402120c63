"""On a planted model, whose truth is known: how well do head attribution and its rivals find it?"""

import polars as pl

from headflow.attribution.scores import asked, scores_from_tables
from headflow.files import write_json
from headflow.models.planted.circuits import find_circuit, no_truth
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.examples import EXAMPLES
from headflow.tables.faithfulness import RANKINGS
from headflow.tables.planted import PLANTED_SCORES
from stages import paths
from stages.door import enter

_REPORTED = ("precision", "recall", "interval_precision", "interval_recall", "coverage", "largest_error", "relative_error", "rank_correlation")


def main(params: Params, key: str) -> None:
    """Write scores and metrics of model ``key``; an empty table for a model whose truth nobody knows."""
    circuit = read_prepared(paths.model_dir(key)).circuit
    estimand = params.masks.estimand
    reason = "the model is not a planted one" if circuit is None else no_truth(params.features.target, params.features.baseline)
    scores = pl.DataFrame(schema={name: column.dtype for name, column in PLANTED_SCORES.columns.items()})
    if circuit is not None and reason is None:
        scores = scores_from_tables(
            find_circuit(circuit), EXAMPLES.read(paths.EXAMPLES), RANKINGS.read(paths.faithfulness_dir(key) / "rankings.parquet"),
            ATTRIBUTIONS.read(paths.attributions_dir(key) / "attributions.parquet"), confidence=params.fit.confidence,
            **asked(params.masks.model_dump()),
        )  # fmt: skip
    PLANTED_SCORES.write(scores, paths.planted_scores(key))
    rankings = {row["ranking"]: {name: row[name] for name in _REPORTED} for row in scores.iter_rows(named=True)}
    write_json(paths.metrics("score_planted", key), {"circuit": circuit, "estimand": estimand, "no_truth": reason, "rankings": rankings})


if __name__ == "__main__":
    enter(main)
