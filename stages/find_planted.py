"""Do head attribution and its rivals, with this run's masks and estimator, find circuits whose truth is known?"""

import polars as pl

from headflow.attribution.proof import prove
from headflow.files import write_json
from headflow.models.planted.circuits import CIRCUITS
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.planted import PLANTED_SCORES
from stages import paths
from stages.door import enter

_REPORTED = ("precision", "recall", "interval_precision", "interval_recall", "coverage", "largest_error", "relative_error", "rank_correlation")


def main(params: Params) -> None:
    """Write the scores of every planted circuit, and metrics."""
    masks = params.masks.model_dump(exclude={"precision"})
    options = {"estimator": params.fit.estimator, "confidence": params.fit.confidence, "baseline": params.features.baseline, "seed": params.fit.seed}
    tables = []
    with progress("planted circuits", len(CIRCUITS), "circuits") as bar:
        for name in CIRCUITS:
            tables.append(prove(name, masks, **options, batch_size=params.ablation.batch_size))
            bar.advance()
    scores = pl.concat(tables)
    PLANTED_SCORES.write(scores, paths.FOUND_PLANTED)
    metrics: dict = {name: {} for name in CIRCUITS}
    for row in scores.iter_rows(named=True):
        metrics[row["circuit"]][row["ranking"]] = {name: row[name] for name in _REPORTED}
    write_json(paths.metrics("find_planted"), metrics)


if __name__ == "__main__":
    enter(main, per_model=False)
