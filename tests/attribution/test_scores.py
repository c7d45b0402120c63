"""Scores against a truth: by hand, and on planted models what the rivals find and miss."""

import numpy as np
import pytest
from scipy.stats import rankdata

import headflow
from headflow.ablation import gate_gradients, run_masks
from headflow.attribution.masks import sample_masks
from headflow.attribution.scores import agreement, planted_scores
from headflow.datasets.planted import make_examples
from headflow.errors import HeadflowError
from headflow.models.features import image_attention
from headflow.models.planted.circuits import CIRCUITS
from headflow.tables.planted import PLANTED_SCORES

TRUTH = np.array([[3.0, 0.0, 0.0], [0.0, -2.0, 1.0]])


def test_the_truth_itself_is_perfect() -> None:
    found = agreement(TRUTH, TRUTH, interval=(TRUTH - 0.1, TRUTH + 0.1))
    assert (found.precision, found.recall, found.interval_precision, found.interval_recall, found.coverage) == (1, 1, 1, 1, 1)
    assert (found.largest_error, found.relative_error) == (0, 0) and found.rank_correlation == pytest.approx(1)


def test_by_hand() -> None:
    scores = np.array([[2.0, 1.5, 0.0], [0.0, -1.8, 0.5]])  # names heads 0, 1 and 4; 5 is missed
    found = agreement(scores, TRUTH, interval=(scores - 1.0, scores + 1.0))
    assert found.precision == found.recall == pytest.approx(2 / 3)
    assert found.interval_precision == pytest.approx(2 / 3) and found.interval_recall == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(5 / 6)
    assert found.largest_error == 1.5 and found.relative_error == pytest.approx(((1 + 2.25 + 0.04 + 0.25) / 14) ** 0.5)
    a, b = rankdata(scores), rankdata(TRUTH)
    assert found.rank_correlation == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_heads_below_the_resolution_are_not_named() -> None:
    noise = 1e-7 * np.random.default_rng(0).standard_normal(TRUTH.shape)
    found = agreement(noise, TRUTH, interval=(noise - 1e-9, noise + 1e-9), resolution=1e-4)
    assert np.isnan(found.precision) and found.recall == 0 and found.rank_correlation == 0
    assert np.isnan(found.interval_precision) and found.interval_recall == 0 and found.coverage == pytest.approx(0.5)
    exact = agreement(TRUTH + noise, TRUTH, resolution=1e-4)
    assert exact.rank_correlation == pytest.approx(1) and exact.precision == 1
    assert agreement(TRUTH + noise, TRUTH).rank_correlation < 1  # without it, noise among the idle heads counts as disorder


def test_equal_scores_share_the_places_that_are_left() -> None:
    """Three places, one head above and four equal ones for two places, two of them carriers: 1 + 2·(2/4) of three are right."""
    scores = np.array([[5.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    found = agreement(scores, TRUTH)
    assert found.precision == found.recall == pytest.approx(2 / 3)


def test_precision_does_not_depend_on_the_order_of_heads() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        scores, order = random.integers(-2, 3, TRUTH.shape).astype(float), random.permutation(TRUTH.size)
        one, other = agreement(scores, TRUTH), agreement(scores.ravel()[order].reshape(2, 3), TRUTH.ravel()[order].reshape(2, 3))
        assert np.array_equal(np.nan_to_num([*vars(one).values()]).round(12), np.nan_to_num([*vars(other).values()]).round(12))


def test_scores_in_other_units_have_no_error() -> None:
    found = agreement(TRUTH * 7, TRUTH, same_units=False)
    assert np.isnan(found.largest_error) and np.isnan(found.relative_error) and found.rank_correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((2, 2)), TRUTH, r"scores \[2, 2\] and truth \[2, 3\]"),
        (np.full((2, 3), np.nan), TRUTH, "6 of 6 scores are not finite"),
        (TRUTH, 0 * TRUTH, "no head carries anything"),
    ],
)
def test_errors_are_one_line(scores: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(HeadflowError, match=message):
        agreement(scores, truth)


def test_each_example_is_compared_with_its_category() -> None:
    circuit = CIRCUITS["category"]
    kinds = ["stone", "tree", "tree"]
    right = np.stack([circuit.banzhaf(kind) for kind in kinds])
    table = PLANTED_SCORES.check(planted_scores(circuit, {"right": right, "wrong": right[::-1]}, categories=kinds), "test")
    rows = {row["ranking"]: row for row in table.iter_rows(named=True)}
    assert rows["right"]["recall"] == 1 and rows["right"]["largest_error"] == 0 and rows["right"]["carriers"] == 4 and rows["right"]["examples"] == 3
    assert rows["wrong"]["recall"] == pytest.approx((1 / 4 + 1 + 1 / 4) / 3)
    assert rows["right"]["coverage"] is None and rows["right"]["interval_recall"] is None
    with pytest.raises(HeadflowError, match="3 examples, but 2 categories"):
        planted_scores(circuit, {"right": right}, categories=kinds[:2])
    with pytest.raises(HeadflowError, match="category None is not one of stone, tree"):
        planted_scores(circuit, {"right": right})


def rivals(name: str) -> tuple[dict, dict]:
    """Scores of a planted circuit's heads by head attribution and three rivals, and the intervals of the first; one picture."""
    circuit, row = CIRCUITS[name], make_examples(count=2, references=8).row(0, named=True)
    capture = headflow.load(f"planted:{name}", device_map="cpu").capture(row["image"], row["question"])
    masks = sample_masks(circuit.layers, circuit.heads, 4 * circuit.layers * circuit.heads, design="foldover_hadamard")
    singles = sample_masks(circuit.layers, circuit.heads, circuit.layers * circuit.heads, design="single")
    whole = np.ones((1, circuit.layers, circuit.heads), bool)
    fitted = headflow.fit(masks, run_masks(capture, masks))
    scores = {
        "attribution": fitted.attribution_,
        "ablation": (run_masks(capture, whole) - run_masks(capture, singles)).reshape(circuit.layers, circuit.heads),
        "gradient": gate_gradients(capture, whole)[1][0],
        "attention": image_attention(capture).final.numpy(),
    }
    return scores, {"attribution": fitted.interval()}


def scored(name: str) -> dict[str, dict]:
    scores, intervals = rivals(name)
    return {row["ranking"]: row for row in planted_scores(CIRCUITS[name], scores, intervals=intervals, categories=None).iter_rows(named=True)}


def test_head_attribution_recovers_what_adds_up() -> None:
    """So does every method that measures effects; attention weight alone does not."""
    found = scored("additive")
    for name in ("attribution", "ablation", "gradient"):
        assert found[name]["largest_error"] < 1e-3 and found[name]["precision"] == found[name]["recall"] == 1
        assert found[name]["rank_correlation"] == pytest.approx(1)
    assert found["attribution"]["interval_precision"] == found["attribution"]["interval_recall"] == found["attribution"]["coverage"] == 1
    assert found["attention"]["largest_error"] is None


def test_single_head_ablation_misses_heads_that_stand_in_for_each_other() -> None:
    scores, _ = rivals("redundant")
    found = scored("redundant")
    for place in ((1, 1), (2, 4)):
        assert abs(scores["ablation"][place]) < 1e-4 and abs(scores["gradient"][place]) < 1e-4
        assert CIRCUITS["redundant"].banzhaf()[place] == pytest.approx(3.0) == pytest.approx(scores["attribution"][place], abs=0.1)
    assert found["ablation"]["recall"] == found["gradient"]["recall"] == pytest.approx(1 / 3)
    assert found["attribution"]["recall"] == 1 and found["attribution"]["relative_error"] < 0.05 < found["ablation"]["relative_error"]


def test_attention_weight_falls_for_decoys() -> None:
    found = scored("decoy")
    assert found["attention"]["recall"] == 0 and found["attention"]["rank_correlation"] < 0
    assert found["attribution"]["recall"] == 1 and found["attribution"]["largest_error"] < 1e-3


def shares(name: str, design: str, count: int, estimator: str, seeds: int = 200, corners: int = 16) -> dict[str, float]:
    """Over many draws of masks (and corners), on the closed form of a circuit: coverage, false alarms and error of one estimator."""
    circuit, found = CIRCUITS[name], []
    idle = ~circuit.carrying()
    for seed in range(seeds):
        masks = sample_masks(circuit.layers, circuit.heads, count, design=design, seed=seed)
        at = sample_masks(circuit.layers, circuit.heads, corners, design="antithetic", seed=seed, stream="corners of a test")
        options = {"gradients": circuit.gradient(at)} if estimator in ("prior", "gradient") else {}
        fitted = headflow.fit(masks, circuit.value(masks), estimator=estimator, **options)
        low, high = fitted.interval()
        one = agreement(fitted.attribution_, circuit.banzhaf(), interval=(low, high), resolution=1e-3)
        covered = (low - 1e-3 <= circuit.banzhaf()) & (circuit.banzhaf() <= high + 1e-3)
        found.append((one.coverage, covered[~idle].mean(), ((low > 1e-3) | (high < -1e-3))[idle].mean(), one.relative_error))
    return dict(zip(("covered", "carriers_covered", "false_alarms", "error"), np.mean(found, 0), strict=True))


@pytest.mark.parametrize("name", ["redundant", "joint", "cancelled"])
def test_intervals_cover_the_planted_truth(name: str) -> None:
    """200 draws of 160 random masks: 95 % intervals of ridge cover 90 to 99 % of all heads and sound a false alarm for one idle head in twenty;
    those of the prior form cover the carriers too, which plain ridge pulls towards zero."""
    ridge, prior = (shares(name, "bernoulli", 160, estimator) for estimator in ("ridge", "prior"))
    assert 0.90 <= ridge["covered"] <= 0.99 and 0.02 <= ridge["false_alarms"] <= 0.07
    assert prior["carriers_covered"] >= 0.90 and prior["false_alarms"] <= 0.07 and prior["error"] < ridge["error"] / 2


@pytest.mark.parametrize("name", ["redundant", "joint"])
def test_gradients_alone_are_wrong_and_the_prior_form_mends_it(name: str) -> None:
    alone = shares(name, "foldover_hadamard", 160, "gradient", seeds=10, corners=512)
    mended = shares(name, "foldover_hadamard", 160, "prior", seeds=10)
    assert alone["error"] > 0.3 and mended["error"] < 0.01
