"""Which heads serve the same objects, and do they follow what a thing means or how it looks?"""

import polars as pl

from headflow.analysis.clusters import cluster_heads, example_map, profiles
from headflow.analysis.contents import cluster_examples, cluster_names, clusters_table
from headflow.analysis.naming import name_examples
from headflow.analysis.pairs import look_pairs, make_pairs, similarities
from headflow.analysis.permutations import Exchange
from headflow.analysis.separation import separation
from headflow.analysis.stability import stability
from headflow.analysis.unique_effects import unique_effects
from headflow.analysis.verdict import verdict
from headflow.analysis.vision import vision_features
from headflow.attribution.frames import attribution_grid
from headflow.attribution.groups import label_columns
from headflow.errors import HeadflowError
from headflow.files import write_json
from headflow.params import Params
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.clusters import (
    CLUSTER_EXAMPLES,
    CLUSTER_NAMES,
    CLUSTERS,
    EXAMPLE_MAP,
    HEAD_CLUSTERS,
    LOOK_CONTRASTS,
    LOOK_PAIRS,
    PROFILES,
    SEPARATION,
    SIMILARITIES,
)
from headflow.tables.examples import EXAMPLES
from headflow.tables.interactions import UNIQUE_EFFECTS
from stages import paths
from stages.door import enter

NOISE = 0.05  # clusters whose p-value across halves of the pictures is above it are no finding


def main(params: Params, model: str) -> None:
    """Write head clusters and what they are made of, profiles, example map, meaning against looks, and metrics of ``model``."""
    settings = params.clusters
    ids, grid = attribution_grid(ATTRIBUTIONS.read(paths.attributions_dir(model) / "attributions.parquet"))
    examples = EXAMPLES.read(paths.EXAMPLES)
    if missing := sorted(set(ids) - set(examples["id"])):
        raise HeadflowError(f"{paths.EXAMPLES}: has no example {missing[0]}, which the attributions name; run `dvc repro`")
    examples = pl.DataFrame({"id": ids}, schema={"id": pl.String}).join(examples, on="id", maintain_order="left")
    names = name_examples(examples).names
    vectors = grid.reshape(len(ids), -1)
    exchange = Exchange(list(examples.select("split", "scene").iter_rows()), examples["question_kind"].to_list())
    drawn = {"permutations": settings.permutations, "seed": settings.seed}

    clusters = cluster_heads(grid, names, coverage=settings.coverage, max_clusters=settings.max_clusters)
    trust = stability(grid, names, clusters, exchange, draws=settings.draws, **drawn)
    noise = trust.halves_p_ > NOISE
    jaccard = trust.jaccard_
    if noise:
        clusters, jaccard = clusters.merged(), jaccard[:1] * float("nan")
    labels = examples.select(label_columns(examples))
    separated = separation(vectors, labels, exchange=exchange, neighbours=settings.neighbours, **drawn)
    unique = unique_effects(vectors, labels, exchange, **drawn)
    pairs = make_pairs(vectors, labels, exchange, vision_features(paths.features_dir(model) / "tensors.safetensors", ids))
    resampled = {"draws": settings.draws, "confidence": settings.confidence, "seed": settings.seed}
    alike = similarities(pairs, exchange, permutations=settings.permutations, **resampled)
    groups, contrasts = look_pairs(ids, pairs, exchange, **resampled)

    folder = paths.clusters_dir(model)
    HEAD_CLUSTERS.write(clusters.table(), folder / "head_clusters.parquet")
    CLUSTERS.write(clusters_table(clusters, jaccard), folder / "clusters.parquet")
    CLUSTER_NAMES.write(cluster_names(grid, names, clusters, exchange), folder / "cluster_names.parquet")
    CLUSTER_EXAMPLES.write(cluster_examples(ids, grid, clusters, exchange, most=settings.typical), folder / "cluster_examples.parquet")
    PROFILES.write(profiles(grid, names), folder / "profiles.parquet")
    EXAMPLE_MAP.write(example_map(ids, vectors), folder / "example_map.parquet")
    SEPARATION.write(separated, folder / "separation.parquet")
    UNIQUE_EFFECTS.write(unique, folder / "unique_effects.parquet")
    SIMILARITIES.write(alike, folder / "similarities.parquet")
    LOOK_PAIRS.write(groups, folder / "look_pairs.parquet")
    LOOK_CONTRASTS.write(contrasts, folder / "look_contrasts.parquet")

    number = int(clusters.cluster_.max()) + 1
    measures = [name for name in SEPARATION.columns if name not in ("label", "kind", "values", "examples")]
    outcome = verdict(contrasts)
    write_json(
        paths.metrics("cluster_heads", model),
        {
            "examples": len(ids),
            "pictures": exchange.pictures,
            "heads_clustered": int((clusters.cluster_ >= 0).sum()),
            "clusters": number,
            "silhouette": None if clusters.score_ != clusters.score_ else clusters.score_,
            **trust.metrics(),
            "finding": f"{number} clusters" if clusters.clear_ else "no cluster structure",
            "meaning_or_looks": outcome.outcome,
            "contrasts": {name: {key: row[key] for key in ("difference", "low", "high")} for name, row in outcome.contrasts.items()},
            "unique": {row["label"]: {key: row[key] for key in ("unique", "unique_chance", "unique_p")} for row in unique.iter_rows(named=True)},
            "similarity": {row["what"]: {key: row[key] for key in ("r", "p", "partial", "partial_low", "partial_high")} for row in alike.iter_rows(named=True)},
            "separation": {row["label"]: {name: row[name] for name in measures} for row in separated.iter_rows(named=True)},
        },
    )


if __name__ == "__main__":
    enter(main)
