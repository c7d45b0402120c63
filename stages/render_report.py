"""Run the report notebook for one model and set it as four HTML pages, an executed notebook and PNG figures."""

import shutil
from pathlib import Path
from typing import Any

from headflow.files import write_atomically
from headflow.params import Params
from stages import paths
from stages.door import enter

TEMPLATES = Path(__file__).resolve().parents[1] / "reports" / "templates"
RECORDING = (
    "prepare_model", "extract_features", "run_ablations", "fit_attributions", "evaluate_faithfulness", "score_planted", "compare_baselines",
    "cluster_heads", "find_interactions", "trace_text", "trace_flow", "trace_image", "keep_image_tokens", "read_heads",
    "describe_images", "share_attention", "localise_objects", "knock_out_attention", "judge_descriptions", "score_knockouts", "compress_context",
)  # fmt: skip
BASELINES = ("heads", "summary", "agreement", "differences", "gaps")
CLUSTERS = (
    "head_clusters", "profiles", "example_map", "separation", "unique_effects", "similarities", "look_pairs", "look_contrasts",
    "clusters", "cluster_names", "cluster_examples",
)  # fmt: skip


def inputs(key: str) -> dict[str, Any]:
    """Where the report's inputs lie, by the names that the notebook knows them by."""
    features, attributions, clusters = paths.features_dir(key), paths.attributions_dir(key), paths.clusters_dir(key)
    places = {"examples": paths.EXAMPLES, "masks": paths.masks(key), "model": paths.model_dir(key) / "model.json"}
    places |= {name: features / f"{name}.parquet" for name in ("features", "attention")}
    places |= {"skipped_rows": paths.DATA / "skipped.parquet", "skipped_examples": features / "skipped.parquet"}
    places |= {name: attributions / f"{name}.parquet" for name in ("attributions", "fits", "predictions", "head_summary", "growth", "effort")}
    places |= {name: clusters / f"{name}.parquet" for name in CLUSTERS}
    places |= {name: paths.faithfulness_dir(key) / f"{name}.parquet" for name in ("curve_bands", "area_summary", "area_differences", "areas")}
    places |= {name: paths.interactions_dir(key) / f"{name}.parquet" for name in ("interactions", "interaction_fits")}
    places |= {f"baseline_{name}": paths.baselines_dir(key) / f"{name}.parquet" for name in BASELINES}
    places |= {"found_planted": paths.FOUND_PLANTED, "own_planted": paths.planted_scores(key)}
    traced = {name: paths.text_tokens_dir(key) / f"{name}.parquet" for name in ("text_tokens", "text_fits", "text_roles", "text_slots", "text_contrasts")}
    traced |= {name: paths.flow_dir(key) / f"{name}.parquet" for name in ("flow_bands", "flow_depths", "flow_contrasts")}
    traced |= {"image_tokens": paths.image_tokens_dir(key) / "image_tokens.parquet"}
    traced |= {f"image_{name}": paths.image_tokens_dir(key) / f"{name}.parquet" for name in ("fits", "share_means", "sparsity", "curves", "background")}
    traced |= {f"kept_{name}": paths.keeping_dir(key) / f"{name}.parquet" for name in ("bands", "summary", "differences")}
    traced |= {name: paths.heads_dir(key) / f"{name}.parquet" for name in ("head_maps", "cluster_maps", "head_words", "head_writing")}
    described = {"descriptions": paths.descriptions_dir(key) / "descriptions.parquet", "knocked_out": paths.knockouts_dir(key) / "descriptions.parquet"}
    described |= {name: paths.judgements_dir(key) / f"{name}.parquet" for name in ("judgements", "agreement")}
    described |= {f"share_{name}": paths.sharing_dir(key) / f"{name}.parquet" for name in ("fractions", "layers", "heads", "maps")}
    described |= {name: paths.sharing_dir(key) / f"{name}.parquet" for name in ("spread", "spread_layers", "spread_contrast")}
    described |= {f"knockout_{name}": paths.knockout_scores_dir(key) / f"{name}.parquet" for name in ("bands", "levels", "summary", "differences")}
    described |= {"knockout_plan": paths.knockouts_dir(key) / "plan.parquet", "namings": paths.localisation_dir(key) / "namings.parquet"}
    described |= {f"localised_{name}": paths.localisation_dir(key) / f"{name}.parquet" for name in ("layers", "heads", "maps")}
    described |= {f"compressed_{name}": paths.compression_dir(key) / f"{name}.parquet" for name in ("summary", "differences", "times")}
    metrics = {stage: paths.metrics(stage, key).as_posix() for stage in RECORDING}
    as_text = {name: place.as_posix() for name, place in places.items()}
    groups = {"traced": traced, "described": described}
    return as_text | {"metrics": metrics} | {group: {name: place.as_posix() for name, place in those.items()} for group, those in groups.items()}


def main(params: Params, key: str) -> None:
    """Write index.html, trust.html, tokens.html, descriptions.html, report.ipynb and figures/ below the model's report folder."""
    from headflow.reporting import blocks, described, page, run, traced  # here, so that a mistake in the params is told before seconds of imports

    settings = params.model_dump(mode="json", exclude={"ablation"})  # where and how fast the runs were done changes no number
    settings["models"] = {key: settings["models"][key]}  # other models' settings are no part of this page
    places = inputs(key)
    # A missing or damaged input is told here in one line, not as a notebook's traceback.
    whole = run.load(key, places, settings)
    further = {blocks.TOKENS: (blocks.TOKENS_TITLE, traced), blocks.DESCRIPTIONS: (blocks.DESCRIPTIONS_TITLE, described)}
    there = {name: title for name, (title, reader) in further.items() if reader.load(whole, places[reader.GROUP]) is not None}
    folder = paths.report_dir(key)
    executed = page.execute(TEMPLATES / "report.ipynb", folder / "report.ipynb", {"key": key, "inputs": places, "params": settings})
    shutil.rmtree(folder / "figures", ignore_errors=True)  # a figure that is drawn no more must not linger
    for name, png in page.figures(executed).items():
        write_atomically(folder / "figures" / f"{name}.png", lambda path, png=png: path.write_bytes(png))
    titles = {None: params.report.title, blocks.TRUST: f"{blocks.TRUST_TITLE} · {key}"}
    titles |= {name: f"{title} · {key}" for name, title in there.items()}
    for name in further:  # a page that is made no more must not linger
        (folder / f"{name}.html").unlink(missing_ok=True)
    for name, title in titles.items():
        page.render(page.part(executed, name), TEMPLATES / "report.html.j2", folder / f"{name or 'index'}.html", title=title)


if __name__ == "__main__":
    enter(main)
