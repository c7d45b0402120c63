"""A made-up run with known structure: tables as every stage before the report would write them.

Planted: heads of layers 2 to 4 carry the target, each category of object has heads of its own, colour and style change
nothing; a head cut alone shows a quarter of what it shows among many; attention to the picture is drawn at random.
"""

import io
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from headflow.analysis.clusters import HeadClusters
from headflow.attribution.groups import label_columns
from headflow.tables import catalogue as tables
from tests.reporting import further_tables

LAYERS, HEADS, SIDE = 6, 8, 48
CATEGORY = {
    "circle": "shape",
    "square": "shape",
    "triangle": "shape",
    "3": "digit",
    "7": "digit",
    "8": "digit",
    "A": "letter",
    "K": "letter",
    "up": "arrow",
    "left": "arrow",
}
COLOURS = {"red": "#e03c31", "green": "#37b24d", "blue": "#3b6ef0", "yellow": "#f2c414", "cyan": "#22c1d6", "magenta": "#cc3fb8"}
STYLES = ("filled", "outline", "striped", "dotted")
BACKGROUNDS = ("black", "navy", "maroon")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Run:
    """The tables of one synthetic run."""

    examples: pl.DataFrame
    features: pl.DataFrame
    attention: pl.DataFrame
    masks: pl.DataFrame
    attributions: pl.DataFrame
    fits: pl.DataFrame
    predictions: pl.DataFrame
    head_summary: pl.DataFrame
    growth: pl.DataFrame
    head_clusters: pl.DataFrame
    profiles: pl.DataFrame
    example_map: pl.DataFrame
    separation: pl.DataFrame
    skipped_rows: pl.DataFrame
    skipped_examples: pl.DataFrame
    effort: pl.DataFrame
    curve_bands: pl.DataFrame
    area_summary: pl.DataFrame
    area_differences: pl.DataFrame
    areas: pl.DataFrame
    interactions: pl.DataFrame
    interaction_fits: pl.DataFrame
    unique_effects: pl.DataFrame
    similarities: pl.DataFrame
    look_pairs: pl.DataFrame
    look_contrasts: pl.DataFrame
    clusters: pl.DataFrame
    cluster_names: pl.DataFrame
    cluster_examples: pl.DataFrame
    found_planted: pl.DataFrame | None
    own_planted: pl.DataFrame | None
    baseline_heads: pl.DataFrame | None
    baseline_summary: pl.DataFrame | None
    baseline_agreement: pl.DataFrame | None
    baseline_differences: pl.DataFrame | None
    baseline_gaps: pl.DataFrame | None

    def but(self, **frames: pl.DataFrame) -> "Run":
        """The same run with some tables replaced."""
        return replace(self, **frames)


@cache
def make(seed: int = 0, scenes: int = 40, masks: int = 256) -> Run:
    """Draw a run of ``scenes`` examples, of which the stock model answers a few wrongly."""
    rng = np.random.default_rng(seed)
    examples = _examples(rng, scenes)
    features = _features(rng, examples)
    explained = examples.filter(pl.col("id").is_in(features.filter("explained")["id"].to_list()))
    truth = _truth(rng, explained)
    attributions, fits, predictions = _fit(rng, explained, truth)
    ids, names = explained["id"].to_list(), explained["meaning_name"].to_list()
    head_clusters = _clusters(attributions, explained)
    labels = explained.select(label_columns(explained))
    return Run(
        examples=examples,
        features=features,
        attention=_attention(rng, features),
        masks=_masks(rng, masks),
        attributions=attributions,
        fits=fits,
        predictions=predictions,
        head_summary=_head_summary(attributions),
        growth=_growth(rng, explained, masks),
        head_clusters=head_clusters,
        profiles=_profiles(attributions, explained),
        example_map=_map(truth, explained),
        separation=_separation(),
        skipped_rows=skipped(),
        skipped_examples=skipped(),
        effort=further_tables.effort(rng, ids, masks),
        **further_tables.ranked(rng, ids, truth),
        **further_tables.paired(ids, fits["held_out_r"].to_numpy()),
        **further_tables.grouped(ids, truth, names, explained, labels, _as_found(head_clusters)),
        found_planted=further_tables.planted("additive", "redundant"),
        own_planted=further_tables.planted(),
        **further_tables.under_baselines(rng, ids, truth),
    )


def write(run: Run, root: Path, key: str = "tiny", metrics: bool = True, model: dict | None = None) -> None:
    """Write ``run`` below ``root`` where the stages would have written it; ``model`` describes another model than the embedded one."""
    places = {
        "examples": ("examples.parquet", tables.EXAMPLES), "features": (f"features/{key}/features.parquet", tables.FEATURES),
        "attention": (f"features/{key}/attention.parquet", tables.ATTENTION), "masks": (f"masks/{key}.parquet", tables.MASKS),
        "attributions": (f"attributions/{key}/attributions.parquet", tables.ATTRIBUTIONS), "fits": (f"attributions/{key}/fits.parquet", tables.FITS),
        "predictions": (f"attributions/{key}/predictions.parquet", tables.PREDICTIONS),
        "head_summary": (f"attributions/{key}/head_summary.parquet", tables.HEAD_SUMMARY),
        "growth": (f"attributions/{key}/growth.parquet", tables.GROWTH), "head_clusters": (f"clusters/{key}/head_clusters.parquet", tables.HEAD_CLUSTERS),
        "profiles": (f"clusters/{key}/profiles.parquet", tables.PROFILES), "example_map": (f"clusters/{key}/example_map.parquet", tables.EXAMPLE_MAP),
        "separation": (f"clusters/{key}/separation.parquet", tables.SEPARATION), "skipped_rows": ("skipped.parquet", tables.SKIPPED),
        "skipped_examples": (f"features/{key}/skipped.parquet", tables.SKIPPED),
    }  # fmt: skip
    places |= {name: (f"clusters/{key}/{name}.parquet", table) for name, table in {
        "unique_effects": tables.UNIQUE_EFFECTS, "similarities": tables.SIMILARITIES, "look_pairs": tables.LOOK_PAIRS,
        "look_contrasts": tables.LOOK_CONTRASTS, "clusters": tables.CLUSTERS, "cluster_names": tables.CLUSTER_NAMES,
        "cluster_examples": tables.CLUSTER_EXAMPLES,
    }.items()}  # fmt: skip
    places |= {name: (f"faithfulness/{key}/{name}.parquet", table) for name, table in {
        "curve_bands": tables.CURVE_BANDS, "area_summary": tables.AREA_SUMMARY, "area_differences": tables.AREA_DIFFERENCES, "areas": tables.AREAS,
    }.items()}  # fmt: skip
    places |= {
        "effort": (f"attributions/{key}/effort.parquet", tables.EFFORT), "interactions": (f"interactions/{key}/interactions.parquet", tables.INTERACTIONS),
        "interaction_fits": (f"interactions/{key}/interaction_fits.parquet", tables.INTERACTION_FITS),
        **{f"baseline_{name}": (f"baselines/{key}/{name}.parquet", table) for name, table in further_tables.BASELINES.items()},
        "found_planted": ("found_planted.parquet", tables.PLANTED_SCORES), "own_planted": (f"planted/{key}.parquet", tables.PLANTED_SCORES),
    }  # fmt: skip
    for name, (path, table) in places.items():
        if (frame := getattr(run, name)) is not None:
            table.write(frame, root / "data" / path)
    embedded = {"key": key, "id": "embedded", "source": None, "revision": None, "trust_remote_code": False, "dtype": "float32", "attn": "auto",
                "quantization": None, "architecture": "LlavaForConditionalGeneration", "layers": LAYERS, "heads": HEADS, "kv_heads": HEADS,
                "decoder_layers": LAYERS, "image_layers": None, "fingerprint": "0123456789abcdef"}  # fmt: skip
    _json(root / "data" / "models" / key / "model.json", model or embedded)
    if metrics:
        explained = int(run.features["explained"].sum())
        by_stage = {
            "prepare_model": {"object_accuracy": 0.996, "colour_accuracy": 1.0, "description_accuracy": 0.99, "blank_image": {"object_accuracy": 0.05}},
            "extract_features": {"examples": run.features.height, "explained": explained, "left_out": run.features.height - explained},
            "run_ablations": {
                "runs": 12000,
                "prefix_mode": "shared",
                "checks": {"identity": 2.1e-7, "swap": 4.4e-7, "prefix": 1.1e-7, "effect": 0.74, "tolerance": 1e-5},
            },
            "fit_attributions": {"median_held_out_r": 0.96, "median_agreement_r": 0.98},
            "cluster_heads": {"clusters": 5, "mean_silhouette": 0.4, "stability": 0.9, "stability_low": 0.7, "stability_high": 1.0,
                              "split_half_silhouette_p": 0.001},
            "evaluate_faithfulness": {"examples": explained, "masked_forwards": 9000},
            "find_interactions": {"pairs": 6, "found": 2},
        }
        for stage, content in by_stage.items():
            _json(root / "reports" / "metrics" / f"{stage}_{key}.json", content)


def skipped(*rows: tuple[int | None, str | None, str]) -> pl.DataFrame:
    """A table of skipped rows: row, id, reason."""
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in tables.SKIPPED.columns.items()}, orient="row")


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def picture(name: str, colour: str, style: str, background: str) -> bytes:
    """A small scene, PNG."""
    image = Image.new("RGB", (SIDE, SIDE), background)
    draw = ImageDraw.Draw(image)
    ink = COLOURS.get(colour, "#ffffff")
    shape = {"outline": ink} if style == "outline" else {"fill": ink}
    if name == "circle":
        draw.ellipse((10, 10, 38, 38), **shape)
    elif name == "square":
        draw.rectangle((11, 11, 37, 37), **shape)
    elif name == "triangle":
        draw.polygon([(24, 8), (40, 38), (8, 38)], **shape)
    else:
        draw.text((16, 6), {"up": "^", "left": "<"}.get(name, name)[:3], fill=ink, font_size=32)
    if style in ("striped", "dotted"):
        for at in range(0, SIDE, 6):
            draw.line((0, at, SIDE, at), fill=background, width=2 if style == "striped" else 1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _examples(rng: np.random.Generator, scenes: int) -> pl.DataFrame:
    rows = []
    for split, count in (("explain", scenes), ("reference", 4)):
        for scene in range(count):
            name = list(CATEGORY)[scene % len(CATEGORY)]
            colour, style, background = (str(rng.choice(list(options))) for options in (COLOURS, STYLES, BACKGROUNDS))
            main = {
                "name": name,
                "category": CATEGORY[name],
                "colour": colour,
                "style": style,
                "main": True,
                "x": 10,
                "y": 10,
                "width": 28,
                "height": 28,
                "mask": b"",
            }
            rows.append({
                "id": f"{split}-{scene:05d}-object", "split": split, "scene": scene, "image": picture(name, colour, style, background),
                "row": None, "question_kind": "object", "question": "What is the main object in the image? Answer with one word.", "answer": name,
                "object_count": 1, "description": f"a {colour} {name}", "objects": [main],
                "meaning_name": name, "meaning_category": CATEGORY[name], "looks_colour": colour, "looks_style": style, "looks_background": background,
            })  # fmt: skip
    schema = {name: column.dtype for name, column in tables.EXAMPLES.columns.items()}
    return pl.DataFrame(rows, schema={**schema, **{name: pl.String for name in rows[0] if name not in schema}})


def _features(rng: np.random.Generator, examples: pl.DataFrame) -> pl.DataFrame:
    text = ["USER", ":", " ", *["<image>"] * 36, "\n", "What", " is", " the", " main", " object", "?", " ASSISTANT", ":"]
    roles = ["system"] * 3 + ["image"] * 36 + ["question"] * 7 + ["role", "final"]
    rows = []
    for place, row in enumerate(examples.filter(pl.col("split") == "explain").iter_rows(named=True)):
        right = place % 14 != 5
        rows.append({
            "id": row["id"], "stock_answer": row["answer"] if right else "star", "correct": right, "explained": right,
            "target_answer": row["answer"], "answer_tokens": [7], "rival_tokens": [8, 9],
            "stock_target": float(rng.normal(15, 1)), "tokens": text, "roles": roles,
            "swap_partner": "reference-00000-object", "image_start": 3, "image_stop": 39,
        })  # fmt: skip
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in tables.FEATURES.columns.items()})


def _attention(rng: np.random.Generator, features: pl.DataFrame) -> pl.DataFrame:
    level = rng.beta(1.5, 2.5, (LAYERS, HEADS))
    return pl.DataFrame([
        {"id": name, "layer": layer, "head": head, "final_to_image": float(share), "suffix_to_image": float(share * 0.8)}
        for name in features["id"] for layer in range(LAYERS) for head in range(HEADS)
        for share in [np.clip(level[layer, head] + rng.normal(0, 0.03), 0, 1)]
    ])  # fmt: skip


def _masks(rng: np.random.Generator, count: int) -> pl.DataFrame:
    purposes = ["fit"] * count + ["held_out"] * 32 + ["single"] * LAYERS * HEADS + ["intact", "ablated"]
    bits = [np.packbits(rng.integers(0, 2, LAYERS * HEADS)).tobytes() for _ in purposes]
    return pl.DataFrame({"mask": range(len(purposes)), "purpose": purposes, "bits": bits}, schema={"mask": pl.Int64, "purpose": pl.String, "bits": pl.Binary})


def _truth(rng: np.random.Generator, explained: pl.DataFrame) -> np.ndarray:
    """Attribution of every head for every example, [examples, layers, heads]."""
    shared = np.zeros((LAYERS, HEADS))
    shared[2, 1], shared[3, 5], shared[3, 2], shared[4, 0] = 1.0, 1.7, 0.8, 1.2
    shared[1, 6] = -0.35
    own = {"shape": (3, 0), "digit": (4, 4), "letter": (2, 6), "arrow": (4, 7)}
    truth = np.repeat(shared[None], explained.height, axis=0)
    for place, category in enumerate(explained["meaning_category"]):
        truth[place][own[category]] += 1.6
    return truth + rng.normal(0, 0.06, truth.shape)


def _fit(rng: np.random.Generator, explained: pl.DataFrame, truth: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    attributions, fits, predictions = [], [], []
    for place, name in enumerate(explained["id"]):
        for layer in range(LAYERS):
            for head in range(HEADS):
                value = float(truth[place, layer, head])
                attributions.append({"id": name, "layer": layer, "head": head, "attribution": value, "standard_error": 0.05, "single_head_effect": value / 4})
        masks = rng.integers(0, 2, (32, LAYERS * HEADS))
        actual = 2.0 + masks @ truth[place].ravel() + rng.normal(0, rng.uniform(0.2, 0.8), 32)
        predicted = 2.0 + masks @ truth[place].ravel()
        predictions += [
            {"id": name, "mask": 256 + i, "actual": float(a), "predicted": float(p)} for i, (a, p) in enumerate(zip(actual, predicted, strict=True))
        ]
        r = float(np.corrcoef(actual, predicted)[0, 1])
        fits.append(
            {
                "id": name,
                "intercept": 2.0,
                "penalty": 0.1,
                "held_out_r": r,
                "held_out_r2": r * r,
                "intact": 2.0 + float(truth[place].sum()) * 1.1,
                "ablated": 2.0,
            }
        )
    return pl.DataFrame(attributions), pl.DataFrame(fits), pl.DataFrame(predictions)


def _head_summary(attributions: pl.DataFrame) -> pl.DataFrame:
    half = 1.96 * pl.col("attribution").std() / pl.len().sqrt()
    return attributions.group_by("layer", "head").agg(
        pl.col("attribution").mean().alias("mean"), (pl.col("attribution").mean() - half).alias("low"), (pl.col("attribution").mean() + half).alias("high"),
        pl.col("single_head_effect").mean().alias("single_mean"), pl.len().cast(pl.Int64).alias("examples"),
    ).select(pl.lit("all").alias("group"), pl.all())  # fmt: skip


def _growth(rng: np.random.Generator, explained: pl.DataFrame, masks: int) -> pl.DataFrame:
    rows = []
    for name in explained["id"]:
        size = 16
        while size <= masks:
            noise = rng.normal(0, 0.02)
            rows.append({"id": name, "masks": size, "held_out_r": min(0.99, 0.97 - 6 / size + noise), "agreement_r": min(0.99, 0.99 - 9 / size + noise)})
            size *= 2
    return pl.DataFrame(rows)


def _clusters(attributions: pl.DataFrame, explained: pl.DataFrame) -> pl.DataFrame:
    means = attributions.group_by("layer", "head").agg(pl.col("attribution").mean().abs().alias("size")).sort("size", descending=True)
    total = float(means["size"].sum())
    rows = [
        {"layer": row["layer"], "head": row["head"], "cluster": min(place // 3, 3) if place < 14 else -1, "share": row["size"] / total,
         "silhouette": 0.5 - 0.02 * place if place < 14 else None}
        for place, row in enumerate(means.iter_rows(named=True))
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in tables.HEAD_CLUSTERS.columns.items()})


def _as_found(head_clusters: pl.DataFrame) -> HeadClusters:
    """The clusters' table as the analysis holds them."""
    grids = {name: np.full((LAYERS, HEADS), float("nan")) for name in ("cluster", "share", "silhouette")}
    for row in head_clusters.iter_rows(named=True):
        for name, grid in grids.items():
            grid[row["layer"], row["head"]] = float("nan") if row[name] is None else row[name]
    return HeadClusters(grids["cluster"].astype(int), grids["share"], grids["silhouette"], 0.4, clear_=True)


def _profiles(attributions: pl.DataFrame, explained: pl.DataFrame) -> pl.DataFrame:
    named = attributions.join(explained.select("id", pl.col("meaning_name").alias("name")), on="id")
    return named.group_by("layer", "head", "name").agg(pl.col("attribution").mean(), pl.len().cast(pl.Int64).alias("examples")).sort("layer", "head", "name")


def _map(truth: np.ndarray, explained: pl.DataFrame) -> pl.DataFrame:
    flat = truth.reshape(len(truth), -1)
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return pl.DataFrame({"id": explained["id"], "x": flat @ axes[0], "y": flat @ axes[min(1, len(axes) - 1)]})


def _separation() -> pl.DataFrame:
    rows = [
        ("meaning_name", "meaning", 10, 0.31, 0.001, 0.62, 0.09, 0.001, 0.71, 0.25, 0.001),
        ("meaning_category", "meaning", 4, 0.48, 0.001, 0.94, 0.27, 0.001, 0.66, 0.08, 0.001),
        ("looks_colour", "looks", 6, -0.06, 0.41, 0.17, 0.16, 0.38, 0.14, 0.13, 0.36),
        ("looks_style", "looks", 4, -0.05, 0.62, 0.24, 0.25, 0.55, 0.07, 0.08, 0.61),
        ("looks_background", "looks", 3, -0.02, 0.30, 0.34, 0.33, 0.44, 0.05, 0.05, 0.48),
    ]  # fmt: skip
    names = ["label", "kind", "values", "silhouette", "silhouette_p", "purity", "purity_chance", "purity_p", "explained", "explained_chance", "explained_p"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.lit(37, pl.Int64).alias("examples"), pl.lit(-0.05).alias("silhouette_chance"))
    return frame.select(list(tables.SEPARATION.columns))
