"""Head attribution and its rivals put to models whose truth is known: real forwards of planted checkpoints, the settings of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.ablation import BatchSize, gate_gradients, run_masks
from headflow.attribution.masks import mask_table, unpack
from headflow.attribution.rankings import measured_scores, random_scores
from headflow.attribution.regression import fit
from headflow.attribution.scores import Intervals, asked, planted_scores
from headflow.attribution.shapley import mask_weights
from headflow.datasets.planted import CATEGORIES, make_examples
from headflow.models.baselines import mean_baseline
from headflow.models.features import image_attention
from headflow.models.loading import load
from headflow.models.planted.circuits import BASELINES, find_circuit

# Two of each name.
_REFERENCES = 16


def chosen_pictures() -> list[dict[str, Any]]:
    """A picture of each category, in different styles: apart from category, the truth is the same for all pictures."""
    explain = make_examples(count=16, references=_REFERENCES).filter(pl.col("split") == "explain")
    rows: list[dict[str, Any]] = []
    for category in CATEGORIES:
        fits = explain.filter(pl.col("meaning_category") == category, ~pl.col("looks_style").is_in([row["looks_style"] for row in rows]))
        rows.append(fits.row(0, named=True))
    return rows


def estimates(
    name: str, masks: Mapping[str, Any], *, estimator: str = "auto", confidence: float = 0.95, baseline: str = "mean", seed: int = 0,
    batch_size: BatchSize = "auto",
) -> tuple[dict[str, Float[np.ndarray, "examples layers heads"]], dict[str, Intervals], list[str]]:  # fmt: skip
    """Scores of all heads of one planted model by head attribution and by every rival.

    Args:
        name: the circuit.
        masks: keyword arguments of :func:`headflow.attribution.masks.mask_table`.
        estimator: of head attribution.
        confidence: level of its intervals.
        baseline: what ablated heads read; ``mean`` where the truth does not hold for the one named.
        seed: of the bootstrap and of the random order.
        batch_size: masked forwards at once.

    Returns:
        Scores and intervals by ranking, and the category of each example.
    """
    circuit, model = find_circuit(name), load(f"planted:{name}", device_map="cpu")
    shape = circuit.layers, circuit.heads
    table = mask_table(*shape, **masks)
    drawn = {purpose: unpack(table.filter(pl.col("purpose") == purpose)["bits"].to_list(), *shape) for purpose in ("intact", "ablated", "fit", "corner")}
    estimand = masks.get("estimand", "banzhaf")
    reads: Any = baseline
    if baseline not in BASELINES or baseline == "mean":
        references = make_examples(count=1, references=_REFERENCES).filter(pl.col("split") == "reference")
        reads = mean_baseline(model.capture(row["image"], row["question"]) for row in references.iter_rows(named=True))
    found: dict[str, list] = {}
    low, high, categories = [], [], []
    for row in chosen_pictures():
        capture = model.capture(row["image"], row["question"])

        def run(wanted: np.ndarray, capture: Any = capture) -> np.ndarray:
            return run_masks(capture, wanted, baseline=reads, batch_size=batch_size).astype(float)

        def differentiate(gates: np.ndarray, capture: Any = capture) -> np.ndarray:
            return gate_gradients(capture, gates, baseline=reads, batch_size=batch_size)[1].astype(float)

        fit_masks = drawn["fit"]
        if ((~fit_masks).sum((1, 2)) == 1).all():  # masks of one head each mean something only against the intact model
            fit_masks = np.concatenate([drawn["intact"], fit_masks])
        options: dict[str, Any] = {"ends": (run(drawn["intact"])[0], run(drawn["ablated"])[0])} if estimand == "shapley" else {}
        weights = mask_weights(fit_masks, masks.get("design", "auto"), estimand)
        fitted = fit(
            fit_masks, run(fit_masks), estimator=estimator, estimand=estimand, seed=seed, weights=weights,
            gradients=differentiate(drawn["corner"]) if len(drawn["corner"]) else None, **options,
        )  # fmt: skip
        scores = {"attribution": fitted.attribution_, **measured_scores(run, differentiate, *shape)}
        scores |= {"attention": image_attention(capture).final.numpy(), "random": random_scores(*shape, seed=seed, example=row["id"])}
        for ranking, grid in scores.items():
            found.setdefault(ranking, []).append(grid)
        ends = fitted.interval(confidence)
        low.append(ends[0])
        high.append(ends[1])
        categories.append(row["meaning_category"])
    return {ranking: np.stack(grids) for ranking, grids in found.items()}, {"attribution": (np.stack(low), np.stack(high))}, categories


def prove(name: str, masks: Mapping[str, Any], **options: Any) -> pl.DataFrame:
    """How well head attribution and its rivals find the circuit called ``name``: a PLANTED_SCORES table. Arguments as in :func:`estimates`."""
    scores, intervals, categories = estimates(name, masks, **options)
    return planted_scores(find_circuit(name), scores, categories=categories, intervals=intervals, **asked(masks))
