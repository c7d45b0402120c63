"""How many masks each design needs until its attributions agree with those of a long reference."""

import numpy as np

import headflow
from bench import subjects
from bench.timing import table
from headflow.attribution.regression import correlations

ENOUGH = 0.99
STRICTER = 0.995  # printed too: no foldover block is shorter than two masks a head, which 0.99 may already be within
AIM = 4.0
ARMS = {
    "bernoulli + ridge": ("bernoulli", "ridge"),
    "bernoulli + lasso": ("bernoulli", "lasso"),
    "antithetic + ridge": ("antithetic", "ridge"),
    "foldover_hadamard + foldover": ("foldover_hadamard", "foldover"),
}
_COUNTS = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LASSO_UP_TO = 512  # its cost grows fast, and its curve has met ridge's by then


def run(source: str, *, tiny: bool = False) -> dict:
    """Correlation with the reference against the number of masks, mean over scenes.

    Args:
        source: the embedded model.
        tiny: two scenes and a short reference.
    """
    scenes, reference_masks, counts = (2, 192, (96, 128)) if tiny else (16, 4096, _COUNTS)
    subject = subjects.embedded(source)
    layers, heads = subject.lvlm.layers, subject.lvlm.heads
    # Every arm draws from a stream of its own: a design that shares its masks with the reference would look better than it is.
    drawn = {design: headflow.sample_masks(layers, heads, max(counts), design=design, stream="bench") for design, _ in ARMS.values()}
    reference_set = headflow.sample_masks(layers, heads, reference_masks, design="foldover_hadamard", stream="bench reference")
    together = np.concatenate([reference_set, *drawn.values()])

    targets = []
    for picture in subjects.rendered(scenes, first=100):
        capture = subject.lvlm.capture(picture, subjects.QUESTION)
        targets.append(headflow.run_masks(capture, together, baseline=subject.baseline))
    targets = np.stack(targets)
    starts = np.cumsum([reference_masks, *(max(counts) for _ in drawn)])
    measured = {design: targets[:, start : start + max(counts)] for design, start in zip(drawn, starts, strict=False)}

    def attributions(masks: np.ndarray, values: np.ndarray, estimator: str) -> np.ndarray:
        fitted = headflow.fit(masks, values, estimator=estimator, standard_errors=False)
        return fitted.attribution_.reshape(len(values), -1)

    reference = attributions(reference_set, targets[:, :reference_masks], "foldover")
    curves: dict[str, dict[int, float]] = {}
    for arm, (design, estimator) in ARMS.items():
        curves[arm] = {
            count: float(np.mean(correlations(attributions(drawn[design][:count], measured[design][:, :count], estimator), reference)))
            for count in counts
            if estimator != "lasso" or count <= _LASSO_UP_TO
        }
    needed = {arm: masks_needed(curve) for arm, curve in curves.items()}
    theirs = needed["bernoulli + ridge"]
    rows = []
    for arm, curve in curves.items():
        fewer = f"{theirs / needed[arm]:.1f}" if theirs and needed[arm] else ""
        values = [f"{curve[count]:.4f}" if count in curve else "" for count in counts]
        stricter = masks_needed(curve, STRICTER)
        rows.append([arm, *values, *(f"{count:.0f}" if count else f"> {max(curve)}" for count in (needed[arm], stricter)), fewer])
    table(
        f"Correlation with the attributions of {reference_masks} foldover masks, mean over {scenes} scenes, {layers * heads} heads;"
        f" aim: {ENOUGH} with ≥ {AIM:.0f} times fewer masks than bernoulli + ridge",
        ["masks", *map(str, counts), f"for {ENOUGH}", f"for {STRICTER}", f"times fewer, {ENOUGH}"],
        rows,
    )
    ours = needed["foldover_hadamard + foldover"]
    return {
        "scenes": scenes,
        "reference_masks": reference_masks,
        "correlation": {arm: {str(count): value for count, value in curve.items()} for arm, curve in curves.items()},
        "needed": needed,
        "needed_stricter": {arm: masks_needed(curve, STRICTER) for arm, curve in curves.items()},
        "times_fewer": theirs / ours if theirs and ours else None,
    }


def masks_needed(curve: dict[int, float], enough: float = ENOUGH) -> float | None:
    """Masks from which the curve stays at ``enough`` or above, straight between measured counts on a logarithmic axis; None = never.

    The first measured count stands for itself, as nothing is known below it.
    """
    counts = sorted(curve)
    below = [i for i, count in enumerate(counts) if not curve[count] >= enough]
    if not below:
        return float(counts[0])
    last = below[-1]
    if last == len(counts) - 1:
        return None
    (low, high), (start, stop) = (curve[counts[last]], curve[counts[last + 1]]), np.log(counts[last : last + 2])
    return float(np.exp(start + (stop - start) * (enough - low) / (high - low)))
