"""Scores and orders of heads, against loops that run one mask at a time and against functions whose answer is known."""

import itertools

import numpy as np
import pytest

from headflow.ablation import gate_gradients, run_masks
from headflow.attribution.rankings import MEANINGS, alone, diagonal, measured_scores, places, random_scores, rankings_table
from headflow.errors import HeadflowError
from headflow.tables.faithfulness import RANKINGS

LAYERS, HEADS = 2, 3


def polynomial(gates: np.ndarray) -> np.ndarray:
    """Head (0, 0) adds 3; (0, 1) or (0, 2) suffices for 2; (1, 0) and (1, 1) are both needed for 4; (1, 2) takes 1 away."""
    g = np.asarray(gates, float)
    either = g[:, 0, 1] + g[:, 0, 2] - g[:, 0, 1] * g[:, 0, 2]
    return 1 + 3 * g[:, 0, 0] + 2 * either + 4 * g[:, 1, 0] * g[:, 1, 1] - g[:, 1, 2]


def derivatives(gates: np.ndarray) -> np.ndarray:
    g = np.asarray(gates, float)
    one = np.ones(len(g))
    parts = [3 * one, 2 * (1 - g[:, 0, 2]), 2 * (1 - g[:, 0, 1]), 4 * g[:, 1, 1], 4 * g[:, 1, 0], -one]
    return np.stack(parts, 1).reshape(-1, LAYERS, HEADS)


def test_scores_of_a_known_function() -> None:
    scores = measured_scores(polynomial, derivatives, LAYERS, HEADS)
    assert scores["ablation"].tolist() == [[3, 0, 0], [4, 4, -1]]  # blind to OR
    assert scores["restoration"].tolist() == [[3, 2, 2], [0, 0, -1]]  # blind to AND
    assert scores["gradient"].tolist() == [[3, 0, 0], [4, 4, -1]]
    np.testing.assert_allclose(scores["integrated"], [[3, 1, 1], [2, 2, -1]])  # each pair shares its effect
    assert scores["integrated"].sum() == pytest.approx(polynomial(np.ones((1, 2, 3)))[0] - polynomial(np.zeros((1, 2, 3)))[0])


def test_only_what_is_wanted_is_run() -> None:
    asked = []

    def run(masks: np.ndarray) -> np.ndarray:
        asked.append(len(masks))
        return polynomial(masks)

    def differentiate(gates: np.ndarray) -> np.ndarray:
        asked.append(gates[:, 0, 0].tolist())
        return derivatives(gates)

    assert list(measured_scores(run, differentiate, LAYERS, HEADS, wanted=["restoration"])) == ["restoration"]
    assert list(measured_scores(run, differentiate, LAYERS, HEADS, wanted=["integrated", "gradient"], points=2)) == ["integrated", "gradient"]
    assert asked == [7, [1.0, 0.25, 0.75]]


@pytest.mark.parametrize("baseline", ["blank", "closed"])
def test_scores_of_a_model_equal_runs_one_by_one(captures, baseline: str) -> None:
    capture, _ = captures("gqa")
    layers, heads = capture.lvlm.layers, capture.lvlm.heads

    def f(mask: np.ndarray) -> float:
        return float(run_masks(capture, mask[None], baseline=baseline)[0])

    def slope(gates: np.ndarray) -> np.ndarray:
        return gate_gradients(capture, gates[None], baseline=baseline)[1][0]

    scores = measured_scores(
        lambda masks: run_masks(capture, masks, baseline=baseline), lambda gates: gate_gradients(capture, gates, baseline=baseline)[1], layers, heads, points=4
    )
    whole, none = np.ones((layers, heads), bool), np.zeros((layers, heads), bool)
    reach = max(abs(scores[name]).max() for name in scores)
    for layer, head in itertools.product(range(layers), range(heads)):
        cut, kept = whole.copy(), none.copy()
        cut[layer, head], kept[layer, head] = False, True
        assert scores["ablation"][layer, head] == pytest.approx(f(whole) - f(cut), abs=1e-4 * reach)
        assert scores["restoration"][layer, head] == pytest.approx(f(kept) - f(none), abs=1e-4 * reach)
    np.testing.assert_allclose(scores["gradient"], slope(np.ones((layers, heads), np.float32)), atol=1e-4 * reach)
    expected = np.mean([slope(np.full((layers, heads), g, np.float32)) for g in (0.125, 0.375, 0.625, 0.875)], axis=0)
    np.testing.assert_allclose(scores["integrated"], expected, atol=1e-4 * reach)
    assert reach > 0.01  # the heads do something


def test_integrated_gradients_sum_to_the_whole_effect(captures) -> None:
    capture, _ = captures("mha")
    layers, heads = capture.lvlm.layers, capture.lvlm.heads
    ends = run_masks(capture, np.stack([np.zeros((layers, heads), bool), np.ones((layers, heads), bool)]))
    effect = float(ends[1] - ends[0])
    errors = []
    for points in (1, 64):
        scores = measured_scores(
            lambda masks: run_masks(capture, masks), lambda gates: gate_gradients(capture, gates)[1], layers, heads, wanted=["integrated"], points=points
        )
        errors.append(abs(scores["integrated"].sum() - effect))
    assert errors[1] < 1e-3 * abs(effect) and errors[1] < 0.1 * errors[0]


def test_scores_do_not_depend_on_the_batch_size(captures) -> None:
    capture, _ = captures("window")
    layers, heads = capture.lvlm.layers, capture.lvlm.heads
    found = [
        measured_scores(
            lambda masks, size=size: run_masks(capture, masks, batch_size=size), lambda gates, size=size: gate_gradients(capture, gates, batch_size=size)[1],
            layers, heads,
        )
        for size in (1, 5, "auto")
    ]  # fmt: skip
    for name, scores in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[name], scores, atol=1e-4 * abs(scores).max())


def test_places_are_those_of_a_sorted_list() -> None:
    random = np.random.default_rng(0)
    grid = random.integers(0, 4, (20, 3, 5)).astype(float)  # many ties
    found = places(grid)
    for scores, place in zip(grid, found, strict=True):
        order = sorted(itertools.product(range(3), range(5)), key=lambda head: (-scores[head], *head))
        assert [place[head] for head in order] == list(range(15))
    assert np.array_equal(places(grid[3]), found[3])


def test_rounding_decides_no_place() -> None:
    """Heads that do nothing keep their order whatever the last digits say."""
    random = np.random.default_rng(1)
    scores = np.array([[0.0, 5.0, 0.0, -1.0], [0.0, 0.0, 4.999, 0.0]])
    for _ in range(20):
        assert places(scores + 2e-5 * random.normal(size=scores.shape)).tolist() == [[2, 0, 3, 7], [4, 5, 1, 6]]
    assert places(np.zeros((2, 2))).tolist() == [[0, 1], [2, 3]]
    order = random_scores(32, 32, seed=0, example="a")
    assert np.array_equal(places(order).ravel(), 1023 - order.ravel())  # no two of a thousand heads count as equal


def test_masks_of_heads_alone() -> None:
    masks = alone(2, 2)
    assert masks.reshape(5, 4).astype(int).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert diagonal(1, 2, 4)[:, 0].tolist() == [[0.125] * 2, [0.375] * 2, [0.625] * 2, [0.875] * 2]


def test_a_random_order_depends_on_seed_and_example_alone() -> None:
    one = random_scores(4, 8, seed=3, example="a")
    assert np.array_equal(one, random_scores(4, 8, seed=3, example="a"))
    assert not np.array_equal(one, random_scores(4, 8, seed=3, example="b"))
    assert not np.array_equal(one, random_scores(4, 8, seed=4, example="a"))
    firsts = [int(places(random_scores(2, 2, seed=0, example=str(i))).argmin()) for i in range(400)]
    assert np.bincount(firsts, minlength=4).min() > 70  # each head comes first about as often


def test_faults_are_named() -> None:
    with pytest.raises(HeadflowError, match=r"ranking 'gradient': the score of layer 1, head 2 is not a finite number"):
        measured_scores(polynomial, lambda gates: derivatives(gates) + np.array([0, 0, 0, 0, 0, np.inf]).reshape(2, 3), LAYERS, HEADS)
    with pytest.raises(HeadflowError, match="ranking 'attention' is not measured by runs"):
        measured_scores(polynomial, derivatives, LAYERS, HEADS, wanted=["attention"])


def test_table_of_rankings(tmp_path) -> None:
    own = {"attribution": np.array([[[1.0, 3.0]], [[2.0, 0.0]]]), "random": np.array([[[0.1, 0.2]], [[0.3, 0.4]]])}
    table = rankings_table(["a", "b"], own, {"attribution": own["attribution"].mean(0)})
    RANKINGS.write(table, tmp_path / "t.parquet")
    assert table.filter(id="b", ranking="attribution").select("layer", "head", "score", "place").rows() == [(0, 0, 2.0, 0), (0, 1, 0.0, 1)]
    shared = table.filter(scope="shared")
    assert shared["id"].to_list() == [None, None] and shared["score"].to_list() == [1.5, 1.5] and shared["place"].to_list() == [0, 1]
    assert len(table) == 2 * 2 * 2 + 2
    assert set(table["ranking"]) <= set(MEANINGS)
