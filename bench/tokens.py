"""Error against compute for the attribution of image tokens: local differences at corners, regression on masks, and both."""

import numpy as np
import torch

import headflow
from bench import subjects
from bench.timing import interleaved, table
from headflow.ablation import run_masks
from headflow.attribution.masks import sample_corners
from headflow.attribution.regression import correlations
from headflow.components import ImageTokens
from headflow.local_differences import token_effects
from headflow.models.capture import Capture

_CORNERS = (2, 4, 8, 16, 32, 64)
_FOLDOVER = (64, 96, 128, 192, 256, 512, 1024)
_RANDOM = (64, 128, 256, 512, 1024)
_PRIOR = ((2, 32), (4, 32), (8, 32), (8, 64), (8, 96), (16, 64), (16, 128), (16, 256), (32, 128), (32, 256), (32, 512))


def run(source: str, *, tiny: bool = False) -> dict:
    """One table: every token of the embedded model's picture, against many masks.

    Args:
        source: the embedded model.
        tiny: few scenes and masks.
    """
    scenes, reference_masks, most = (2, 256, 128) if tiny else (12, 8192, 1024)
    subject = subjects.embedded(source)
    count = subject.capture.image.stop - subject.capture.image.start
    drawn = {
        "reference": headflow.sample_masks(1, count, reference_masks, design="foldover_hadamard", stream="bench reference"),
        "bernoulli": headflow.sample_masks(1, count, most, design="bernoulli", stream="bench"),
        "foldover": headflow.sample_masks(1, count, most, design="foldover_hadamard", stream="bench"),
    }
    corners = sample_corners(1, count, max(_CORNERS))
    values: dict[str, list] = {name: [] for name in (*drawn, "differences", "intact")}
    for picture in subjects.rendered(scenes, first=100):
        capture = subject.lvlm.capture(picture, subjects.QUESTION)
        options = {"baseline": subject.baseline, "components": single_tokens(capture)}
        for name, masks in drawn.items():
            values[name].append(run_masks(capture, masks[:, 0], **options))
        values["differences"].append(token_effects(capture, corners[:, 0], **options)[1])
        values["intact"].append(token_effects(capture, **options)[1])
    measured = {name: np.stack(rows).astype(float) for name, rows in values.items()}
    batch = 16
    times = interleaved(
        {
            "forward": lambda: run_masks(capture, drawn["bernoulli"][:batch, 0], batch_size=batch, **options),
            "both": lambda: token_effects(capture, corners[:batch, 0], batch_size=batch, **options),
        },
        2 if tiny else 9,
    )  # fmt: skip
    backward = float(np.median(np.divide(times["both"], times["forward"])))

    def fitted(name: str, masks: int, used: int = 0, **options) -> np.ndarray:
        differences = measured["differences"][:, :used, None] if used else None
        found = headflow.fit(drawn[name][:masks], measured[name][:, :masks], gradients=differences, standard_errors=False, **options)
        return found.attribution_.reshape(scenes, -1)

    reference = fitted("reference", reference_masks, estimator="foldover")
    halves = [fitted("reference", reference_masks // 2, estimator="foldover"), 2 * reference - fitted("reference", reference_masks // 2, estimator="foldover")]
    rows = []

    def note(arm: str, masks: int, used: int, found: np.ndarray) -> None:
        errors = np.sqrt(((found - reference) ** 2).sum(1) / (reference**2).sum(1))
        rows.append((arm, masks, used, masks + backward * used, float(errors.mean()), float(np.mean(correlations(found, reference)))))

    for masks in (m for m in _RANDOM if m <= most):
        note("bernoulli + ridge", masks, 0, fitted("bernoulli", masks, estimator="ridge"))
        note("bernoulli + lasso", masks, 0, fitted("bernoulli", masks, estimator="lasso"))
    for masks in (m for m in _FOLDOVER if m <= most):
        note("foldover", masks, 0, fitted("foldover", masks, estimator="foldover"))
    note("local differences at the intact model", 0, 1, measured["intact"][:, 0])
    for used in _CORNERS:
        note("mean local difference", 0, used, measured["differences"][:, :used].mean(1))
    for used, masks in (pair for pair in _PRIOR if pair[1] <= most):
        note("local differences as prior", masks, used, fitted("foldover", masks, used, estimator="prior"))
    agreement = float(np.mean(correlations(*halves)))
    table(
        f"Image tokens: relative error of attributions against {reference_masks} foldover masks (its halves agree with r = {agreement:.3f}), mean over {scenes}"
        f" scenes of {count} tokens; cost in masked forwards, a run with its backward pass counted as measured here ({backward:.1f})",
        ["arm", "masks", "corners", "cost", "error", "r"],
        [[arm, masks, used, f"{cost:.0f}", f"{error:.4f}", f"{r:.4f}"] for arm, masks, used, cost, error, r in rows],
    )
    names = ("arm", "masks", "corners", "forwards", "error", "r")
    return {"curves": [dict(zip(names, row, strict=True)) for row in rows], "backward_run": backward, "halves_agree": agreement, "scenes": scenes}


def single_tokens(capture: Capture) -> ImageTokens:
    """Every image token alone."""
    return ImageTokens(torch.eye(capture.key_positions, dtype=torch.bool)[capture.key_image])
