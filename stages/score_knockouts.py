"""How much of the descriptions is left where the picture is knocked out, against the layers in which it is; no model is needed."""

import polars as pl

from headflow.analysis import knockout_scores as scores
from headflow.analysis.knockout_scores import NAMES
from headflow.files import write_csv, write_json
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT
from headflow.tables.judgements import JUDGEMENTS
from headflow.tables.knockouts import KNOCKOUT_BANDS, KNOCKOUT_DIFFERENCES, KNOCKOUT_LEVELS, KNOCKOUT_PLAN, KNOCKOUT_SUMMARY
from stages import paths
from stages.door import enter


def main(params: Params, key: str) -> None:
    settings, folder = params.knockout, paths.knockouts_dir(key)
    stock = DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet")
    said, plan = KNOCKED_OUT.read(folder / "descriptions.parquet"), KNOCKOUT_PLAN.read(folder / "plan.parquet")
    judgements = JUDGEMENTS.read(paths.judgements_dir(key) / "judgements.parquet")
    tables = judgements, said, plan
    drawn = {"confidence": settings.confidence, "permutations": settings.permutations, "seed": settings.seed}
    bands, levels = (make(*tables, confidence=settings.confidence) for make in (scores.knockout_bands, scores.knockout_levels))
    summary, differences = scores.knockout_summary(*tables, draws=settings.draws, **drawn), scores.knockout_differences(*tables, **drawn)

    out = paths.knockout_scores_dir(key)
    KNOCKOUT_BANDS.write(bands, out / "bands.parquet")
    KNOCKOUT_LEVELS.write(levels, out / "levels.parquet")
    KNOCKOUT_SUMMARY.write(summary, out / "summary.parquet")
    KNOCKOUT_DIFFERENCES.write(differences, out / "differences.parquet")
    write_csv(plotted(bands), paths.plot("knockouts", key))
    write_json(
        paths.metrics("score_knockouts", key),
        {
            "pictures": said["id"].n_unique(),
            "unchanged_with_nothing_closed": unchanged(stock, said, plan),
            "levels": nested(levels, ("judge", "against", "level"), "mean", "low", "high"),
            "all_layers_closed": nested(summary, ("judge", "against", "route", "last_position"), "blind", "blind_low", "blind_high", "others", "others_p"),
            "rises": nested(summary, ("judge", "against", "route", "last_position"), "rise", "rise_first", "rise_last", "rise_share", "half"),
        },
    )


def plotted(bands: pl.DataFrame) -> pl.DataFrame:
    """F1 against the stock description for `dvc plots`, by the first judge: a row an L, a column a route (empty where it was not asked for)."""
    rows = bands.filter(pl.col("kind") == "upward", pl.col("against") == "stock")
    rows = rows.filter(pl.col("judge") == rows["judge"][0]) if len(rows) else rows
    named = rows.with_columns(
        pl.concat_str("route", pl.lit(" "), "last_position").replace_strict({" ".join(names): name for names, name in NAMES.items()}).alias("name")
    )
    wide = named.pivot("name", index="at", values="mean", maintain_order=True).rename({"at": "last layer left open"})
    columns = list(dict.fromkeys(NAMES.values()))
    return wide.select(wide.columns[0], *(pl.col(name) if name in wide.columns else pl.lit(None, pl.Float64).alias(name) for name in columns))


def unchanged(stock: pl.DataFrame, said: pl.DataFrame, plan: pl.DataFrame) -> float:
    """Share of pictures of which the sweep, with nothing closed, says just what the stock model says."""
    nothing = plan.filter(closed=0)["knockout"][0]
    both = said.filter(knockout=nothing).join(stock, on="id", suffix="_stock")
    return float((both["tokens"] == both["tokens_stock"]).mean()) if len(both) else 0.0


def nested(table: pl.DataFrame, names: tuple[str, ...], *columns: str) -> dict:
    """Some columns of every row, under what names it, level by level."""
    found: dict = {}
    for row in table.iter_rows(named=True):
        place = found
        for name in names:
            place = place.setdefault(row[name], {})
        place.update({column: row[column] for column in columns})
    return found


if __name__ == "__main__":
    enter(main)
