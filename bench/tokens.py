"""Error against compute for the attribution of image tokens: local differences, regression on masks, and both.

The reference is each token's Shapley value by the book: at random sets of the others of all sizes, the target with the token less the target without
it, run by run.
"""

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
from headflow.tracing import image_tokens

_CORNERS = (4, 8, 16, 32, 64)
_MASKS = (64, 128, 256, 512)
_BOTH = ((8, 64), (16, 64), (32, 64), (32, 128), (32, 256), (64, 64), (64, 256))


def run(source: str, *, tiny: bool = False) -> dict:
    """One table: every token of the embedded model's picture.

    Args:
        source: the embedded model.
        tiny: few scenes and sets.
    """
    scenes, sets, most, most_corners = (2, 8, 64, 8) if tiny else (12, 96, 512, 64)
    subject = subjects.embedded(source)
    count = subject.capture.image.stop - subject.capture.image.start
    states = sample_corners(1, count, sets, estimand="shapley", seed=1)[:, 0]
    corners = sample_corners(1, count, most_corners, estimand="shapley")[:, 0]
    masks = headflow.sample_masks(1, count, most, design="kernel", stream="bench")
    ends = np.stack([np.ones(count, bool), np.zeros(count, bool)])
    found: dict[str, list] = {name: [] for name in ("reference", "masks", "differences", "intact", "ends")}
    for picture in subjects.rendered(scenes, first=100):
        capture = subject.lvlm.capture(picture, subjects.QUESTION)
        options = {"baseline": subject.baseline, "components": single_tokens(capture)}
        found["reference"].append(_by_the_book(capture, states, options))
        found["masks"].append(run_masks(capture, masks[:, 0], **options))
        found["differences"].append(token_effects(capture, corners, **options)[1])
        found["intact"].append(token_effects(capture, **options)[1][0])
        found["ends"].append(run_masks(capture, ends, **options))
    measured = {name: np.stack(rows).astype(float) for name, rows in found.items()}
    backward = _backward(capture, corners, options, 2 if tiny else 9)
    # In pairs, whose sizes are complementary; half of them against the other half says what the reference's own noise is.
    draws = measured["reference"].reshape(scenes, sets // 2, 2, count).mean(2)
    reference, (one, two) = draws.mean(1), (draws[:, part::2].mean(1) for part in (0, 1))
    rows = []

    def note(arm: str, number: int, used: int, values: np.ndarray) -> None:
        errors = np.sqrt(((values - reference) ** 2).sum(1) / (reference**2).sum(1))
        rows.append((arm, number, used, number + backward * used, float(errors.mean()), float(np.mean(correlations(values, reference)))))

    def fitted(number: int, differences: np.ndarray | None) -> np.ndarray:
        """Scene by scene, as each scales its differences by itself."""
        values = []
        for scene, (intact, ablated) in enumerate(measured["ends"]):
            slopes = None if differences is None else differences[scene] * image_tokens._scaling(differences[scene].mean(0), (intact, ablated))
            values.append(headflow.fit(
                masks[:number], measured["masks"][scene, :number], estimand="shapley", ends=(intact, ablated), standard_errors=False,
                estimator="foldover" if slopes is None else "prior", gradients=None if slopes is None else slopes[:, None],
            ).attribution_[0])  # fmt: skip
        return np.stack(values)

    def scaled(differences: np.ndarray) -> np.ndarray:
        return np.stack([part * image_tokens._scaling(part, ends) for part, ends in zip(differences, measured["ends"], strict=True)])

    for number in (number for number in _MASKS if number <= most):
        note("masks alone", number, 0, fitted(number, None))
    note("local differences at the intact model", 0, 1, scaled(measured["intact"]))
    for used in (used for used in _CORNERS if used <= most_corners):
        note("mean local difference", 0, used, measured["differences"][:, :used].mean(1))
        note("the same, scaled to the whole effect", 0, used, scaled(measured["differences"][:, :used].mean(1)))
    for used, number in (pair for pair in _BOTH if pair[0] <= most_corners and pair[1] <= most):
        note("scaled differences and masks", number, used, fitted(number, measured["differences"][:, :used]))
    agreement = float(np.mean(correlations(one, two)))
    table(
        f"Image tokens: relative error of Shapley values against {sets} sets by the book (two halves of them agree with r = {agreement:.3f}), mean over"
        f" {scenes} scenes of {count} tokens; cost in masked forwards, a run with its backward pass counted as measured here ({backward:.1f})",
        ["arm", "masks", "corners", "cost", "error", "r"],
        [[arm, number, used, f"{cost:.0f}", f"{error:.3f}", f"{r:.3f}"] for arm, number, used, cost, error, r in rows],
    )
    names = ("arm", "masks", "corners", "forwards", "error", "r")
    return {"curves": [dict(zip(names, row, strict=True)) for row in rows], "backward_run": backward, "halves_agree": agreement, "scenes": scenes}


def single_tokens(capture: Capture) -> ImageTokens:
    """Every image token alone."""
    return ImageTokens(torch.eye(capture.key_positions, dtype=torch.bool)[capture.key_image])


def _by_the_book(capture: Capture, states: np.ndarray, options: dict) -> np.ndarray:
    """What each token adds to each set of the others ``[sets, tokens]``."""
    count = states.shape[1]
    flipped = np.repeat(states, count, 0)
    flipped[np.arange(len(flipped)), np.tile(np.arange(count), len(states))] ^= True
    before, after = run_masks(capture, states, **options)[:, None], run_masks(capture, flipped, **options).reshape(states.shape)
    return np.where(states, before - after, after - before)


def _backward(capture: Capture, corners: np.ndarray, options: dict, rounds: int) -> float:
    """Cost of a run with local differences, in masked forwards."""
    batch = len(corners[:16])
    times = interleaved(
        {
            "forward": lambda: run_masks(capture, corners[:batch], batch_size=batch, **options),
            "both": lambda: token_effects(capture, corners[:batch], batch_size=batch, **options),
        },
        rounds,
    )  # fmt: skip
    return float(np.median(np.divide(times["both"], times["forward"])))
