"""The tables of a made-up run that later stages make: rankings put to the test, pairs of heads, meaning against looks, contents of clusters, planted scores.

The analysis itself makes them where it can, from a run's attributions; what needs runs of a model is made up.
"""

import numpy as np
import polars as pl

from headflow.analysis.baselines import Under, agreement, differences, head_means, summarise
from headflow.analysis.clusters import HeadClusters
from headflow.analysis.contents import cluster_examples, cluster_names, clusters_table
from headflow.analysis.pairs import look_pairs, make_pairs, similarities
from headflow.analysis.permutations import Exchange
from headflow.analysis.unique_effects import unique_effects
from headflow.attribution import faithfulness
from headflow.attribution.rankings import places
from headflow.tables import catalogue as tables

BASELINES = {
    "heads": tables.BASELINE_HEADS, "summary": tables.BASELINE_SUMMARY, "agreement": tables.BASELINE_AGREEMENT, "differences": tables.BASELINE_DIFFERENCES,
    "gaps": tables.BASELINE_GAPS,
}  # fmt: skip
"""The tables of the comparison of baselines, by the names of their files."""

RANKINGS = ("attribution", "ablation", "restoration", "attention", "gradient", "integrated", "random")
NOISE = dict(zip(RANKINGS, (0.0, 0.2, 0.15, 3.0, 0.4, 0.05, 50.0), strict=True))
"""How far the order of each ranking is from the true one, as noise on the attributions."""


def empty(table: tables.Table) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema={name: column.dtype for name, column in table.columns.items()})


def of_table(table: tables.Table, rows: list[dict]) -> pl.DataFrame:
    """Rows as a table with the columns and types of ``table``."""
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in table.columns.items()})


def ranked(rng: np.random.Generator, ids: list[str], truth: np.ndarray) -> dict[str, pl.DataFrame]:
    """Curves and areas of a model that is exactly additive."""
    total = truth[0].size
    ks = faithfulness.counts(total, 12)
    used = np.ones(len(ids), bool)
    values, curves = {}, []
    for ranking in RANKINGS:
        scores = truth + rng.normal(0, NOISE[ranking], truth.shape)
        for scope in ("own", "shared"):
            shown = np.broadcast_to(scores.mean(0), scores.shape) if scope == "shared" and ranking != "random" else scores
            order = np.argsort(places(shown).reshape(len(ids), -1), axis=1)
            gains = np.take_along_axis(truth.reshape(len(ids), -1), order, 1).cumsum(1)
            share = np.concatenate([np.zeros((len(ids), 1)), gains], 1)[:, ks] / gains[:, -1:]
            curves.append(((ranking, scope), share))
            values |= {(ranking, scope, measure): share for measure in faithfulness.MEASURES}
    stacked = np.stack([share for _, share in curves], 1)
    areas = faithfulness.areas_table(ids, [key for key, _ in curves], ks, stacked, stacked, truth.sum((1, 2)), used, 0.8)
    return {
        "curve_bands": faithfulness.bands(values, ks), "area_summary": faithfulness.area_summary(values, ks),
        "area_differences": faithfulness.area_differences(values, ks), "areas": areas,
    }  # fmt: skip


def paired(ids: list[str], r: np.ndarray, *, found: bool = True) -> dict[str, pl.DataFrame]:
    """Six pairs of heads, of which two stand out; or none at all, which leaves the fit as it is."""
    rows = [
        {"layer": place % 3 + 1, "head": 1, "other_layer": 3 + place % 2, "other_head": 2 + place % 4, "effect": effect, "standard_error": 0.08,
         "low": effect - 0.16, "high": effect + 0.16, "p": p, "q": min(1.0, 3 * p), "kind": kind, "same_sign": 0.9}
        for place, (effect, p, kind) in enumerate([(-0.7, 1e-6, "compensate"), (0.5, 1e-4, "need each other"), (0.1, 0.2, "unclear"), (-0.09, 0.3, "unclear"),
                                                   (0.05, 0.5, "unclear"), (-0.02, 0.8, "unclear")])
    ]  # fmt: skip
    better = r + (0.1 * (1 - r) if found else 0.0)
    fits = pl.DataFrame({"id": ids, "held_out_r": r, "held_out_r2": r**2, "held_out_r_pairs": better, "held_out_r2_pairs": better**2})
    return {"interactions": of_table(tables.INTERACTIONS, rows if found else []), "interaction_fits": fits}


def grouped(
    ids: list[str], truth: np.ndarray, names: list[str], examples: pl.DataFrame, labels: pl.DataFrame, clusters: HeadClusters
) -> dict[str, pl.DataFrame]:
    """Meaning against looks, and what the clusters are made of; ``examples`` and ``labels`` are those of ``ids``, in order."""
    exchange = Exchange(list(examples.select("split", "scene").iter_rows()), examples["question_kind"].to_list())
    vectors = truth.reshape(len(ids), -1)
    vision = np.random.default_rng(7).normal(size=(len(ids), 12))
    pairs = make_pairs(vectors, labels, exchange, vision)
    groups, contrasts = look_pairs(ids, pairs, exchange, draws=39)
    stability = np.full(int(clusters.cluster_.max(initial=-1)) + 1, 0.85)
    return {
        "unique_effects": unique_effects(vectors, labels, exchange, permutations=19), "similarities": similarities(pairs, exchange, permutations=19, draws=39),
        "look_pairs": groups, "look_contrasts": contrasts, "clusters": clusters_table(clusters, stability),
        "cluster_names": cluster_names(truth, names, clusters, exchange), "cluster_examples": cluster_examples(ids, truth, clusters, exchange, most=4),
    }  # fmt: skip


def under_baselines(rng: np.random.Generator, ids: list[str], truth: np.ndarray) -> dict[str, pl.DataFrame]:
    """The comparison of baselines: all but `closed` agree, which lacks the first example."""
    grids = {kind: truth + rng.normal(0, spread, truth.shape) for kind, spread in (("mean", 0.05), ("blank", 0.1), ("swap", 0.1), ("closed", 0.5))}
    grids["closed"][0] = np.nan
    measures = {
        "total_effect": {kind: grid.sum((1, 2)) for kind, grid in grids.items()},
        "held_out_r": {kind: 0.95 + 0 * grid[:, 0, 0] for kind, grid in grids.items()},
        "candidate": {kind: 1.0 * (rng.uniform(size=len(ids)) < 0.6) for kind in grids},
    }
    under = Under(grids, {kind: np.full(truth.shape, 0.05) for kind in grids}, measures, np.arange(len(ids)))
    gaps = [{"baseline": "closed", "id": ids[0], "reason": "nothing would be left to read"}]
    return {
        "baseline_heads": head_means(under), "baseline_summary": summarise(under), "baseline_agreement": agreement(under, top=5),
        "baseline_differences": differences(under), "baseline_gaps": of_table(tables.BASELINE_GAPS, gaps),
    }  # fmt: skip


def effort(rng: np.random.Generator, ids: list[str], masks: int, corners: int = 0) -> pl.DataFrame:
    """What each example cost and how well it is known."""
    cost = {"masks": masks, "corners": corners, "forwards": masks + 2.7 * corners}
    return of_table(tables.EFFORT, [{"id": name, **cost, "relative_error": float(rng.uniform(0.02, 0.08))} for name in ids])


def planted(*circuits: str) -> pl.DataFrame:
    """Scores of planted circuits: head attribution finds all, cutting alone misses half, attention nearly all."""
    rows = []
    for circuit in circuits:
        for ranking, recall, error in (("attribution", 1.0, 0.0004), ("ablation", 0.5, 0.9), ("attention", 0.1, None)):
            own = ranking == "attribution"
            rows.append({
                "circuit": circuit, "ranking": ranking, "estimand": "banzhaf", "examples": 4, "carriers": 2.0, "precision": recall, "recall": recall,
                "interval_precision": 1.0 if own else None, "interval_recall": 1.0 if own else None, "coverage": 0.96 if own else None,
                "largest_error": None if error is None else 3 * error, "relative_error": error, "rank_correlation": recall,
            })  # fmt: skip
    return of_table(tables.PLANTED_SCORES, rows)
