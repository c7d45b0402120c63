"""How few image tokens keep the answer, and by what are they best chosen: attribution, attention, place in the picture, or chance?"""

from pathlib import Path

import polars as pl

from headflow.analysis import keeping
from headflow.errors import HeadflowError
from headflow.execution.kept import StoredExample, code_version
from headflow.execution.store import ResultStore
from headflow.files import write_csv, write_json
from headflow.models.answering import picture_sizes
from headflow.models.keeping import best
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.image_tokens import IMAGE_TOKENS
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY
from stages import paths
from stages.door import enter
from stages.subjects import Subjects


def main(params: Params, key: str) -> None:
    """Write what every example gives at every k, its means over pictures, areas, differences between selections, and metrics of model ``key``."""
    settings, subjects = params.keeping, Subjects(params, key)
    rows = subjects.rows.head(settings.examples)
    attributions = IMAGE_TOKENS.read(paths.image_tokens_dir(key) / "image_tokens.parquet")
    priors = keeping.position_priors(attributions, rows["id"].to_list(), picture_sizes(rows).to_list(), rows["scene"].to_list())
    percents, version, frames = [0.0, *settings.percents], code_version(), []
    with ResultStore(Path(params.ablation.store)) as store, progress(f"keep image tokens ({key})", len(rows), "examples") as bar:
        for subject, prior in zip(subjects, priors, strict=False):
            example = StoredExample(store, subject.context, subject.row, subject.prepare, version)
            try:
                places = example.selectable
                make = {
                    "attribution": lambda places=places, subject=subject: keeping.attribution_scores(attributions, [subject.id], [places])[0],
                    "attention": lambda example=example: example.attention(settings.attention),
                    "position": lambda places=places, prior=prior: None if prior is None else prior[: len(places)],
                    "random": lambda places=places, subject=subject: keeping.random_scores([subject.id], [places], seed=settings.seed)[0],
                }
                scores = {name: found for name in settings.selections if (found := make[name]()) is not None}
                plan = keeping.plan({name: [best(found, places, k) for k in percents] for name, found in scores.items()}, percents)
                for way in example.ways(settings.ways):
                    results = example.run(way, plan.sets, params.ablation.batch_size)
                    frames.append(keeping.kept_rows(subject.id, subject.row["scene"], way, plan, results))
            except HeadflowError as error:
                raise HeadflowError(f"example {subject.id}: {error}") from error
            bar.advance()
    kept = pl.concat(frames)
    bands, differences = keeping.bands(kept, confidence=settings.confidence), keeping.differences(kept, confidence=settings.confidence)
    summary = keeping.summary(kept, level=settings.level, confidence=settings.confidence, draws=settings.draws, seed=settings.seed)

    folder = paths.keeping_dir(key)
    KEPT.write(kept, folder / "kept.parquet")
    KEPT_BANDS.write(bands, folder / "bands.parquet")
    KEPT_SUMMARY.write(summary, folder / "summary.parquet")
    KEPT_DIFFERENCES.write(differences, folder / "differences.parquet")
    write_csv(plotted(bands), paths.plot("keeping", key))
    write_json(
        paths.metrics("keep_image_tokens", key),
        {
            "examples": len(rows),
            "pictures": kept["picture"].n_unique(),
            "image_tokens": int(kept["of"].max()),
            "without_position_prior": sum(prior is None for prior in priors),
            "runs": kept.unique(["id", "way", "kept", "target"]).height,
            "ways": scores_by_way(summary),
            "most": verdicts(summary, differences, 1 - settings.confidence),
        },
    )


def plotted(bands: pl.DataFrame) -> pl.DataFrame:
    """Accuracy for `dvc plots`, in the last of the ways: a row a share of image tokens, a column a selection (empty where it was not asked for)."""
    rows = bands.filter(pl.col("measure") == "accuracy", pl.col("way") == bands["way"][-1], pl.col("percent") > 0)
    wide = rows.pivot("selection", index="percent", values="mean", maintain_order=True)
    return wide.select("percent", *(pl.col(name) if name in wide.columns else pl.lit(None, pl.Float64).alias(name) for name in keeping.SELECTIONS))


def scores_by_way(summary: pl.DataFrame) -> dict:
    """Areas and smallest shares: way → selection → measure."""
    found: dict = {}
    for row in summary.iter_rows(named=True):
        values = {name: row[name] for name in ("area", "low", "high", "stock", "none", "share", "share_low", "share_high")}
        found.setdefault(row["way"], {}).setdefault(row["selection"], {})[row["measure"]] = values
    return found


def verdicts(summary: pl.DataFrame, differences: pl.DataFrame, alpha: float) -> dict:
    """Which selection leads, and from which that can be told: way → measure."""
    found: dict = {}
    for way in summary["way"].unique(maintain_order=True):
        for measure in keeping.MEASURES:
            first = keeping.leader(summary, differences, way=way, measure=measure, alpha=alpha)
            found.setdefault(way, {})[measure] = first and {"selection": first.ranking, "ahead_of": first.ahead_of, "cannot_be_told_from": first.level_with}
    return found


if __name__ == "__main__":
    enter(main)
