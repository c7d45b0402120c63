"""Error against compute for every design and estimator of attributions; many heads; and the size of problem that a fit takes."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import headflow
from bench import subjects
from bench.memory import _own_peak
from bench.timing import interleaved, table
from headflow.ablation import gate_gradients, run_masks
from headflow.attribution.adaptive import run_until_precise
from headflow.attribution.budget import GRADIENT_RUN, forwards, plan
from headflow.attribution.masks import sample_corners
from headflow.attribution.proof import chosen_pictures
from headflow.attribution.regression import correlations
from headflow.charts.planted import CIRCUITS
from headflow.datasets.planted import make_examples
from headflow.models.baselines import Baseline, mean_baseline
from headflow.models.capture import Capture
from headflow.models.planted.circuits import find_circuit, truth_of

WANTED = 0.05
AIM = 40.0
PLANTED = ("redundant", "joint", "cancelled")
FIGURE = Path(__file__).parent / "results" / "estimators.png"
_RANDOM = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_FOLDOVER = (96, 128, 192, 256, 384, 512)
_CORNERS = (2, 4, 8, 16, 32, 64)
_PRIOR = ((2, 32), (4, 16), (4, 32), (4, 96), (8, 16), (8, 32), (8, 96), (16, 32), (16, 96), (16, 192), (16, 384), (32, 96), (32, 192), (32, 384))


def run(source: str, *, tiny: bool = False) -> dict:
    """Tables of the four parts; the figures of the first two also as a picture.

    Args:
        source: the embedded model.
        tiny: few scenes, masks and heads.
    """
    results = {"embedded": _embedded(source, tiny), "planted": _planted(tiny)}
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_bytes(draw(results))
    return results | {"many_heads": _many_heads(source, tiny), "scale": _scale(tiny)}


def _embedded(source: str, tiny: bool) -> dict:
    scenes, reference_masks = (2, 192) if tiny else (8, 4096)
    subject = subjects.embedded(source)
    captures = [subject.lvlm.capture(picture, subjects.QUESTION) for picture in subjects.rendered(scenes, first=100)]
    measured = _measure(captures, subject.baseline, tiny)
    long = headflow.sample_masks(*_shape(captures), reference_masks, design="foldover_hadamard", stream="bench reference")
    targets = np.stack([run_masks(capture, long, baseline=subject.baseline) for capture in captures]).astype(float)
    reference = headflow.fit(long, targets, estimator="foldover", standard_errors=False).attribution_.reshape(scenes, -1)
    batch = 16
    times = interleaved(
        {
            "forward": lambda: run_masks(captures[-1], measured.random[:batch], baseline=subject.baseline, batch_size=batch),
            "both": lambda: gate_gradients(captures[-1], measured.corners[:batch], baseline=subject.baseline, batch_size=batch),
        },
        2 if tiny else 9,
    )  # fmt: skip
    backward = float(np.median(np.divide(times["both"], times["forward"])))
    curves = _curves(measured, reference)
    theirs = needed(curves, "bernoulli + ridge")
    ratios = {arm: (theirs / cost if theirs and (cost := needed(curves, arm)) else None) for arm in curves["arm"].unique(maintain_order=True)}
    table(
        f"Relative error of attributions against {reference_masks} foldover masks, mean over {scenes} scenes; cost in masked forwards, a gradient run"
        f" counted as {GRADIENT_RUN} (measured here: {backward:.1f}); aim: error {WANTED} at 1/{AIM:.0f} of bernoulli + ridge",
        ["arm", "masks", "corners", "cost", "error", "r"],
        [[arm, masks, used, f"{cost:.0f}", f"{error:.4f}", f"{r:.4f}"] for arm, masks, used, cost, error, r in curves.iter_rows()],
    )
    table(
        f"Cost of a relative error of {WANTED}",
        ["arm", "cost", "times less than bernoulli + ridge"],
        [[arm, f"{needed(curves, arm) or np.nan:.0f}", f"{ratio or np.nan:.1f}"] for arm, ratio in ratios.items()],
    )
    return {
        "curves": curves.to_dicts(), "times_less": ratios, "gradient_run": backward, "scenes": scenes,
        "adaptive": _adaptive(measured, reference),
    }  # fmt: skip


def _planted(tiny: bool) -> dict:
    """The same curves on models whose exact values are known: where heads suffice for each other, need each other, or undo each other."""
    found, rows = {}, []
    for name in PLANTED[:1] if tiny else PLANTED:
        circuit, lvlm = find_circuit(name), headflow.load(f"planted:{name}", device_map="cpu")
        references = make_examples(count=1, references=16).filter(pl.col("split") == "reference")
        baseline = mean_baseline(lvlm.capture(row["image"], row["question"]) for row in references.iter_rows(named=True))
        examples = chosen_pictures()
        captures = [lvlm.capture(row["image"], row["question"]) for row in examples]
        truth = truth_of(circuit, [row["meaning_category"] for row in examples]).reshape(len(examples), -1)
        curves = _curves(_measure(captures, baseline, tiny), truth)
        found[name] = curves.to_dicts()
        for arm in curves["arm"].unique(maintain_order=True):
            best = curves.filter(pl.col("arm") == arm)
            rows.append([CIRCUITS[name], arm, f"{needed(curves, arm) or np.nan:.0f}", f"{best['error'].min():.4f}"])
    title = f"Planted circuits, error against the exact values: cost of {WANTED}, and the least error at any cost tried"
    table(title, ["circuit", "arm", "cost", "least"], rows)
    return found


@dataclass
class Measured:
    """Targets and gradients of some examples, float64.

    Every arm draws from a stream of its own: one that shares its masks with the reference would look better than it is.
    """

    random: np.ndarray  # [masks, layers, heads]
    foldover: np.ndarray
    corners: np.ndarray
    at_random: np.ndarray  # [examples, masks]
    at_foldover: np.ndarray
    gradients: np.ndarray  # [examples, corners, layers, heads]
    intact: np.ndarray  # [examples, 1, layers, heads]


def _shape(captures: Sequence[Capture]) -> tuple[int, int]:
    return captures[0].lvlm.layers, captures[0].lvlm.heads


def _measure(captures: Sequence[Capture], baseline: Baseline, tiny: bool) -> Measured:
    shape = _shape(captures)
    random = headflow.sample_masks(*shape, 192 if tiny else max(_RANDOM), design="bernoulli", stream="bench")
    foldover = headflow.sample_masks(*shape, 128 if tiny else max(_FOLDOVER), design="foldover_hadamard", stream="bench")
    corners = sample_corners(*shape, max(_CORNERS))

    def of_all(run: Callable[[Capture], np.ndarray]) -> np.ndarray:
        return np.stack([run(capture) for capture in captures]).astype(float)

    return Measured(
        random, foldover, corners,
        of_all(lambda capture: run_masks(capture, random, baseline=baseline)),
        of_all(lambda capture: run_masks(capture, foldover, baseline=baseline)),
        of_all(lambda capture: gate_gradients(capture, corners, baseline=baseline)[1]),
        of_all(lambda capture: gate_gradients(capture, np.ones((1, *shape), bool), baseline=baseline)[1]),
    )  # fmt: skip


def _curves(measured: Measured, reference: np.ndarray) -> pl.DataFrame:
    """Cost, error against ``reference`` [examples, heads] and correlation with it of every arm, mean over examples."""
    rows, most = [], len(measured.foldover)

    def note(arm: str, masks: int, used: int, found: np.ndarray) -> None:
        found = found.reshape(len(reference), -1)
        errors = np.sqrt(((found - reference) ** 2).sum(1) / (reference**2).sum(1))
        rows.append((arm, masks, used, float(forwards(masks, used)), float(errors.mean()), float(np.mean(correlations(found, reference)))))

    def fitted(masks: np.ndarray, targets: np.ndarray, count: int, **options: object) -> np.ndarray:
        return headflow.fit(masks[:count], targets[:, :count], **options, standard_errors=False).attribution_

    for count in (c for c in _RANDOM if c <= len(measured.random)):
        note("bernoulli + ridge", count, 0, fitted(measured.random, measured.at_random, count, estimator="ridge"))
        if count <= most:
            note("bernoulli + lasso", count, 0, fitted(measured.random, measured.at_random, count, estimator="lasso"))
    for count in (c for c in _FOLDOVER if c <= most):
        note("foldover", count, 0, fitted(measured.foldover, measured.at_foldover, count, estimator="foldover"))
    for used in _CORNERS:
        note("mean gradient", 0, used, measured.gradients[:, :used].mean(1))
    for used, count in (pair for pair in _PRIOR if pair[1] <= most):
        note("gradient prior", count, used, fitted(measured.foldover, measured.at_foldover, count, estimator="prior", gradients=measured.gradients[:, :used]))
    note("gradient at the intact model", 0, 1, measured.intact[:, 0])
    return pl.DataFrame(rows, schema=["arm", "masks", "corners", "forwards", "error", "r"], orient="row")


def _adaptive(measured: Measured, reference: np.ndarray) -> list[dict]:
    """Stop each scene by itself: what it costs, and whether the error is what it was said to be."""
    found, used, masks = [], 8, measured.foldover
    for precision in (0.1, 0.07, 0.05, 0.04):
        costs, errors, claims = [], [], []
        for scene, truth in enumerate(reference):
            gradients = measured.gradients[scene, :used]
            values, claim = run_until_precise(masks, lambda upto: measured.at_foldover[scene, :upto], precision, gradients=gradients)  # noqa: B023
            fit = headflow.fit(masks[: len(values)], values, gradients=gradients, standard_errors=False).attribution_.ravel()
            costs.append(forwards(len(values), used))
            claims.append(claim)
            errors.append(np.linalg.norm(fit - truth) / np.linalg.norm(truth))
        found.append({"precision": precision, "cost": float(np.mean(costs)), "claimed": float(np.mean(claims)), "error": float(np.mean(errors)),
                      "largest_error": float(np.max(errors)), "planned": plan(masks[0].size, precision).forwards})  # fmt: skip
    table(
        f"Adaptive stopping, {used} corners and at most {len(masks)} masks",
        ["precision", "mean cost", "planned cost", "claimed error", "error", "largest"],
        [[one["precision"], f"{one['cost']:.0f}", f"{one['planned']:.0f}", *(f"{one[k]:.4f}" for k in ("claimed", "error", "largest_error"))] for one in found],
    )
    return found


def needed(curves: pl.DataFrame, arm: str, wanted: float = WANTED) -> float | None:
    """The least cost at which the arm's error comes down to ``wanted``, straight between measured points on logarithmic axes; None = never.

    Points that cost more and reach less than another of the same arm are left out.
    """
    best = list(frontier(curves.filter(pl.col("arm") == arm)).select("forwards", "error").iter_rows())
    if not best or best[-1][1] > wanted:
        return None
    after = next(i for i, (_, error) in enumerate(best) if error <= wanted)
    if after == 0:
        return best[0][0]
    (c0, e0), (c1, e1) = np.log(best[after - 1]), np.log(best[after])
    return float(np.exp(c0 + (c1 - c0) * (np.log(wanted) - e0) / (e1 - e0)))


def frontier(curves: pl.DataFrame) -> pl.DataFrame:
    """The points that no cheaper one of the same arm beats, by cost."""
    ordered = curves.sort("arm", "forwards")
    return ordered.filter((pl.col("error") < pl.col("error").cum_min().shift(1).over("arm")).fill_null(True))


def _many_heads(source: str, tiny: bool) -> dict:
    """Layers × heads of LLaVA-1.5-7B, narrow and of random weights: does the mean gradient of 64 corners agree with a long reference?"""
    return {str(spread): _against_long_reference(source, tiny, spread) for spread in ((0.06,) if tiny else (0.02, 0.06, 0.15))}


def _against_long_reference(source: str, tiny: bool, spread: float) -> dict:
    layers, masks, rest = (2, 128, 4) if tiny else (32, 4096, 64)
    # Weights as small as transformers draws them leave heads next to additive, which any estimator masters; wider ones make them interact.
    subject = subjects.large(source, layers=layers, width=256, patches=6, head_width=8, spread=spread)
    shape = subject.lvlm.layers, subject.lvlm.heads
    drawn = headflow.sample_masks(*shape, masks, design="foldover_hadamard", stream="bench reference")
    targets = run_masks(subject.capture, drawn, baseline=subject.baseline)
    halves = [headflow.fit(drawn[p], targets[p], estimator="foldover", standard_errors=False) for p in (slice(0, masks // 2), slice(masks // 2, masks))]
    reliability = float(np.corrcoef(*(half.attribution_.ravel() for half in halves))[0, 1])
    held_out = headflow.sample_masks(*shape, 64 if tiny else 256, design="bernoulli", stream="bench held out")
    fit = headflow.fit(
        drawn, targets, estimator="foldover", standard_errors=False, held_out=(held_out, run_masks(subject.capture, held_out, baseline=subject.baseline))
    )  # fmt: skip
    gradients = gate_gradients(subject.capture, sample_corners(*shape, rest), baseline=subject.baseline)[1]
    reference = fit.attribution_.ravel()
    found = {count: float(np.corrcoef(gradients[:count].mean(0).ravel(), reference)[0, 1]) for count in (2, 4, 8, 16, 32, 64) if count <= rest}
    table(
        f"{shape[0]} × {shape[1]} heads, random weights of spread {spread}: correlation of the mean gradient with {masks} foldover masks"
        f" (its halves correlate at {reliability:.4f}, its held-out r is {float(fit.held_out_r_):.3f}); aim: 0.99 from 64 corners or fewer",
        ["corners", "r"],
        [[count, f"{r:.4f}"] for count, r in found.items()],
    )
    return {"masks": masks, "reference_halves_r": reliability, "held_out_r": float(fit.held_out_r_), "r": {str(count): r for count, r in found.items()}}


def _scale(tiny: bool) -> dict:
    """Time and peak memory of fits with random targets, each in a process of its own."""
    sizes = (4, 4, 64, 3) if tiny else (32, 32, 4096, 500)
    found = {}
    for estimator in ("prior",) if tiny else ("foldover", "prior", "ridge"):
        command = [sys.executable, "-m", "bench.estimators", estimator, *map(str, sizes)]
        seconds, mib = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
        found[estimator] = {"seconds": seconds, "mib": mib}
    layers, heads, masks, examples = sizes
    table(
        f"Fit of {layers} × {heads} heads, {masks} masks, {examples} examples, random targets, with standard errors; aim: < 4096 MiB, minutes",
        ["estimator", "seconds", "peak MiB"],
        [[name, f"{one['seconds']:.0f}", f"{one['mib']:.0f}"] for name, one in found.items()],
    )
    return found


def _fit_alone(estimator: str, layers: int, heads: int, masks: int, examples: int) -> None:
    random = np.random.default_rng(0)
    drawn = headflow.sample_masks(layers, heads, masks, design="bernoulli" if estimator == "ridge" else "foldover_hadamard")
    targets = random.normal(size=(examples, masks)).astype(np.float32)
    gradients = random.normal(size=(examples, 16, layers, heads)).astype(np.float32) if estimator == "prior" else None
    began = time.perf_counter()
    headflow.fit(drawn, targets, estimator=estimator, gradients=gradients)
    print(time.perf_counter() - began, _own_peak())


def draw(results: dict) -> bytes:
    """The curves of the embedded and the planted models as a picture, PNG."""
    from headflow.charts.estimators import error_against_compute
    from headflow.reporting.figure import png

    models = {"embedded model, against a long run": results["embedded"]["curves"]}
    models |= {f"planted: {CIRCUITS[name]}, exact values": rows for name, rows in results["planted"].items()}
    frames = [frontier(pl.DataFrame(rows)).with_columns(model=pl.lit(model)) for model, rows in models.items()]
    return png(error_against_compute(pl.concat(frames), WANTED).to_dict())


if __name__ == "__main__":
    _fit_alone(sys.argv[1], *map(int, sys.argv[2:6]))
