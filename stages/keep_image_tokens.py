"""How few image tokens keep the answer, and by what are they best chosen: attribution, attention, place in the picture, or chance?"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from headflow.analysis import keeping
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.kept import StoredExample, code_version
from headflow.files import write_csv, write_json
from headflow.models.answering import picture_sizes
from headflow.models.keeping import best
from headflow.params import Params
from headflow.tables.image_tokens import IMAGE_TOKENS
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY
from stages import paths
from stages.door import enter
from stages.subjects import Subjects
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write what every example gives at every k, its means over pictures, areas, differences between selections, and metrics of model ``key``."""
    settings, subjects = params.keeping, Subjects(params, key)
    rows = subjects.rows.head(settings.examples)
    chosen = Selections(params, key, subjects)
    with at_work("stages.keep_image_tokens:KeptRuns", params, key, "keep image tokens", len(rows), "examples") as run:
        results = list(run([{"example": place} for place in range(len(rows))]))
    frames = []
    for place, one in enumerate(results):
        plan = chosen.plan(place, one["places"], {"attention": one.get("attention")})
        frames += [keeping.kept_rows(rows["id"][place], rows["scene"][place], way, plan, one[f"runs {way}"]) for way in one["ways"]]
    priors = chosen.priors
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


class Selections:
    """Which image tokens stay, for every example and k: driver and workers draw them alike."""

    def __init__(self, params: Params, key: str, subjects: Subjects) -> None:
        self.settings, rows = params.keeping, subjects.rows.head(params.keeping.examples)
        self.ids, self.percents = rows["id"].to_list(), [0.0, *params.keeping.percents]
        self.attributions = IMAGE_TOKENS.read(paths.image_tokens_dir(key) / "image_tokens.parquet")
        self.priors = keeping.position_priors(self.attributions, self.ids, picture_sizes(rows).to_list(), rows["scene"].to_list())

    def plan(self, place: int, places: Bool[np.ndarray, " image"], known: dict[str, Any]) -> keeping.Plan:
        """The sets of the example at ``place``.

        Args:
            places: which places of the image span are image tokens.
            known: scores that the model gave, by selection.
        """
        name, prior = self.ids[place], self.priors[place]
        make = {
            "attribution": lambda: keeping.attribution_scores(self.attributions, [name], [places])[0],
            "attention": lambda: known["attention"],
            "position": lambda: None if prior is None else prior[: len(places)],
            "random": lambda: keeping.random_scores([name], [places], seed=self.settings.seed)[0],
        }
        scores = {selection: found for selection in self.settings.selections if (found := make[selection]()) is not None}
        return keeping.plan({selection: [best(found, places, k) for k in self.percents] for selection, found in scores.items()}, self.percents)


class KeptRuns:
    """What a worker does: the runs of one example with the tokens that stay."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects, self.version = Subjects(self.params, key), code_version()
        self.chosen = Selections(self.params, key, self.subjects)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        settings, subject = self.params.keeping, self.subjects[unit["example"]]
        example = StoredExample(store, subject.context, subject.row, subject.prepare, self.version)
        try:
            result: Result = {"places": np.asarray(example.selectable), "ways": example.ways(settings.ways)}
            if "attention" in settings.selections:
                result["attention"] = np.asarray(example.attention(settings.attention))
            plan = self.chosen.plan(unit["example"], result["places"], {"attention": result.get("attention")})
            for way in result["ways"]:
                result[f"runs {way}"] = np.asarray(example.run(way, plan.sets, self.params.ablation.batch_size))
        except HeadflowError as error:
            raise HeadflowError(f"example {subject.id}: {error}") from error
        count(1, 0)
        return result


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
