"""Which heads serve the same objects, and do they follow what a thing means or how it looks?"""

import polars as pl

from headflow.analysis.clusters import cluster_heads, example_map, profiles
from headflow.analysis.naming import name_examples
from headflow.analysis.separation import separation
from headflow.attribution.frames import attribution_grid
from headflow.attribution.groups import label_columns
from headflow.errors import HeadflowError
from headflow.files import write_json
from headflow.params import Params
from headflow.tables import ATTRIBUTIONS, EXAMPLE_MAP, EXAMPLES, HEAD_CLUSTERS, PROFILES, SEPARATION
from stages import paths
from stages.door import enter


def main(params: Params, model: str) -> None:
    """Write head clusters, profiles, example map, separation and metrics of ``model``."""
    settings = params.clusters
    ids, grid = attribution_grid(ATTRIBUTIONS.read(paths.attributions_dir(model) / "attributions.parquet"))
    examples = EXAMPLES.read(paths.EXAMPLES)
    if missing := sorted(set(ids) - set(examples["id"])):
        raise HeadflowError(f"{paths.EXAMPLES}: has no example {missing[0]}, which the attributions name; run `dvc repro`")
    examples = pl.DataFrame({"id": ids}, schema={"id": pl.String}).join(examples, on="id", maintain_order="left")
    names = name_examples(examples).names
    vectors = grid.reshape(len(ids), -1)

    clusters = cluster_heads(grid, names, coverage=settings.coverage, max_clusters=settings.max_clusters)
    labels = examples.select(label_columns(examples))
    separated = separation(vectors, labels, neighbours=settings.neighbours, permutations=settings.permutations, seed=settings.seed)
    folder = paths.clusters_dir(model)
    HEAD_CLUSTERS.write(clusters.table(), folder / "head_clusters.parquet")
    PROFILES.write(profiles(grid, names), folder / "profiles.parquet")
    EXAMPLE_MAP.write(example_map(ids, vectors), folder / "example_map.parquet")
    SEPARATION.write(separated, folder / "separation.parquet")

    number = int(clusters.cluster_.max()) + 1
    measures = [name for name in SEPARATION.columns if name not in ("label", "kind", "values", "examples")]
    write_json(
        paths.metrics("cluster_heads", model),
        {
            "examples": len(ids),
            "heads_clustered": int((clusters.cluster_ >= 0).sum()),
            "clusters": number,
            "silhouette": None if clusters.score_ != clusters.score_ else clusters.score_,
            "finding": f"{number} clusters" if clusters.clear_ else "no cluster structure",
            "separation": {row["label"]: {name: row[name] for name in measures} for row in separated.iter_rows(named=True)},
        },
    )


if __name__ == "__main__":
    enter(main)
