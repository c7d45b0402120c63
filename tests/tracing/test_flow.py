"""The order of flow from effects that are known: parts, depths, and intervals that hold their level."""

from collections.abc import Callable

import numpy as np
import pytest

from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tracing.bands import Band, Sweep, sweep
from headflow.tracing.components import FROM_IMAGE, ROUTES
from headflow.tracing.flow import ALL, PICTURE, Flow, effects_table, flow_masks

TEXT, FINAL, VIA, DIRECT = ROUTES
Effect = Callable[[np.ndarray], np.ndarray]
"""From the layers that are closed ``[layers]`` to the effect of each example."""


def measured(routes: dict[str, Effect], steps: Sweep, examples: int) -> dict[str, dict[Band, np.ndarray]]:
    """What the stage hands over if each route's effect were this."""
    layer = np.arange(steps.layers)
    found = {
        name: {band: np.broadcast_to(effect((layer >= band[0]) & (layer < band[1])), examples).astype(float) for band in steps.bands}
        for name, effect in routes.items()
    }  # fmt: skip
    whole = (0, steps.layers)
    picture = sum(found[name][whole] for name in FROM_IMAGE if name in found)
    return found | {PICTURE: {whole: np.asarray(picture, float)}, ALL: {whole: np.asarray(picture, float)}}


def linear(parts: np.ndarray) -> Effect:
    """Each layer adds its part ``[examples, layers]``."""
    return lambda closed: parts @ closed


def flow(routes: dict[str, Effect], steps: Sweep, examples: int = 12, **options: object) -> Flow:
    return Flow(measured(routes, steps, examples), np.arange(examples), steps, range(steps.layers), **options)


def at(layer: int, layers: int = 6, size: float = 4.0, examples: int = 12, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Parts that sit in one layer, with noise in all."""
    parts = np.random.default_rng(seed).normal(0, noise, (examples, layers))
    parts[:, layer] += size
    return parts


def rows(table) -> dict[str, dict]:
    return {row["route"]: row for row in table.iter_rows(named=True)}


def test_what_is_closed_in_each_run() -> None:
    steps = sweep(3, 1)
    closed, masks = flow_masks(ROUTES, FROM_IMAGE, steps)
    assert masks[0].all() and len(closed) == len(masks) - 1 == 4 * len(steps.bands) + 2
    for (route, band), mask in zip(closed[:-2], masks[1:-2], strict=True):
        assert np.argwhere(~mask).tolist() == [[ROUTES.index(route), steps.bands.index(band)]]
    whole = steps.bands.index((0, 3))
    assert closed[-2:] == [(PICTURE, (0, 3)), (ALL, (0, 3))]
    assert np.argwhere(~masks[-2]).tolist() == [[2, whole], [3, whole]] and np.argwhere(~masks[-1])[:, 0].tolist() == [0, 1, 2, 3]
    alone, masks = flow_masks([DIRECT], FROM_IMAGE, steps)
    assert not masks[-2][0, whole] and not masks[-1][0, whole] and len(alone) == len(steps.bands) + 2


def test_parts_add_up_and_a_route_in_one_layer_is_found_there() -> None:
    steps, direct = sweep(6), at(4)
    found = flow({TEXT: linear(at(1, seed=1)), DIRECT: linear(direct)}, steps)
    np.testing.assert_allclose(found.parts(DIRECT), direct)
    bands, depths, contrasts = found.bands_table(), rows(found.depths_table()), found.contrasts_table()
    for table, kind in ((bands, FLOW_BANDS), (found.depths_table(), FLOW_DEPTHS), (contrasts, FLOW_CONTRASTS)):
        kind.check(table, "here")
    assert depths[TEXT]["depth"] == pytest.approx(1, abs=0.2) and depths[DIRECT]["depth"] == pytest.approx(4, abs=0.2)
    assert depths[TEXT]["first"] == 0.5 and depths[TEXT]["last"] == 1.5 and depths[DIRECT]["first"] == 3.5
    gap = contrasts.filter(measure="depth").row(0, named=True)
    assert (gap["route"], gap["other"]) == (TEXT, DIRECT) and -3.3 < gap["low"] < gap["high"] < -2.7 and gap["p"] == 0.001
    window = bands.filter(closed="window", route=DIRECT)
    assert window["at"].to_list() == [0.5, 1.5, 2.5, 3.5, 4.5] and window["last_layer"].to_list() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(window["mean"], [direct[:, k : k + 2].sum(1).mean() for k in range(5)])
    assert bands.filter(closed="from", route=DIRECT)["at"].to_list() == [0, 1, 2, 3, 4, 5]
    assert bands.filter(closed="below", route=DIRECT)["at"].to_list() == [1, 2, 3, 4, 5, 6]
    assert bands.filter(route=PICTURE)["share"].to_list() == [1.0]


def test_a_route_that_either_of_two_layers_serves_is_not_overlooked() -> None:
    """No window shows it; closing from above and from below together do."""
    steps = sweep(8, 2)
    scale = np.random.default_rng(0).normal(5, 0.5, 12)
    found = flow({DIRECT: lambda closed: scale * (closed[1] and closed[6])}, steps)
    row = rows(found.depths_table())[DIRECT]
    assert row["first"] is None and row["window_depth"] is None and row["effect"] == pytest.approx(scale.mean())
    assert row["depth"] == pytest.approx(3.5) and found.parts(DIRECT).mean(0)[[1, 6]] == pytest.approx([scale.mean() / 2] * 2)


def test_wide_steps_and_the_numbers_of_layers_that_read_the_picture() -> None:
    steps = sweep(4, 1, 2)
    parts = np.tile([0.0, 0.0, 3.0, 1.0], (12, 1)) * np.linspace(0.9, 1.1, 12)[:, None]
    found = Flow(measured({DIRECT: linear(parts)}, steps, 12), np.arange(12), steps, [3, 8, 13, 18])
    assert found.parts(DIRECT).shape == (12, 2) and rows(found.depths_table())[DIRECT]["depth"] == pytest.approx(15.5)
    bands = found.bands_table()
    assert bands.filter(closed="window")["at"].to_list() == [3, 13, 18] and bands.filter(closed="below")["at"].to_list() == [13, 19]
    assert effects_table([("a", DIRECT, (1, 3), 0.5)], [3, 8, 13, 18]).rows() == [("a", DIRECT, 8, 13, 0.5)]
    FLOW_EFFECTS.check(effects_table([("a", DIRECT, (1, 3), 0.5)], [3, 8, 13, 18]), "here")


def test_depths_and_their_differences_hold_their_level() -> None:
    """Half the layers carry nothing but noise; routes share the noise of an example."""
    layers, examples, runs, random = 10, 16, 150, np.random.default_rng(5)
    steps, held = sweep(layers), {TEXT: 0, DIRECT: 0, "difference": 0}
    means = {TEXT: np.array([2.0, 2, 1, 0, 0, 0, 0, 0, 0, 0]), DIRECT: np.array([0.0, 0, 0, 0, 1, 2, 1, 1, 0, 0])}
    truth = {name: float(part @ np.arange(layers) / part.sum()) for name, part in means.items()}
    for run in range(runs):
        common = random.normal(1, 0.2, (examples, 1))
        parts = {name: part * common + random.normal(0, 0.3, (examples, layers)) for name, part in means.items()}
        found = flow({name: linear(part) for name, part in parts.items()}, steps, examples, confidence=0.9, draws=199, seed=run)
        for name, row in rows(found.depths_table()).items():
            held[name] += row["depth_low"] <= truth[name] <= row["depth_high"]
        gap = found.contrasts_table().filter(measure="depth").row(0, named=True)
        held["difference"] += gap["low"] <= truth[TEXT] - truth[DIRECT] <= gap["high"]
    assert all(0.8 < count / runs < 0.95 for count in held.values()), held


def test_nothing_is_said_of_the_depth_of_what_has_no_effect() -> None:
    noise = np.random.default_rng(3).normal(0, 0.3, (12, 6))
    little = np.random.default_rng(4).normal(0.004, 0.0005, (12, 6))
    found = flow({TEXT: linear(noise), FINAL: linear(little), DIRECT: linear(at(4))}, sweep(6))
    depths = rows(found.depths_table())
    assert depths[TEXT]["effect_p"] > 0.05 and depths[TEXT]["depth"] is None
    assert depths[FINAL]["effect_p"] < 0.01 and depths[FINAL]["share"] < 0.01 and depths[FINAL]["depth"] is None
    gaps = found.contrasts_table().filter(measure="depth")
    assert gaps["difference"].null_count() == len(gaps) == 3 and gaps["p"].null_count() == 3


def test_rounding_is_no_effect() -> None:
    found = flow({VIA: linear(at(2, size=2e-6, noise=1e-8)), DIRECT: linear(at(4))}, sweep(6))
    row = rows(found.depths_table())[VIA]
    assert row["effect_p"] == 1 and row["depth"] is None and row["first"] is None


def test_layers_that_pull_apart_have_no_mean_depth() -> None:
    parts = at(1) - 0.6 * at(5, seed=2)
    assert rows(flow({DIRECT: linear(parts)}, sweep(6)).depths_table())[DIRECT]["depth"] is None
    slightly = at(1) - 0.1 * at(5, seed=2)
    assert rows(flow({DIRECT: linear(slightly)}, sweep(6)).depths_table())[DIRECT]["depth"] == pytest.approx(0.55, abs=0.2)
    ends = at(0) - 0.1 * at(5, seed=2)  # a mean beyond the first layer is drawn in to it
    assert rows(flow({DIRECT: linear(ends)}, sweep(6)).depths_table())[DIRECT]["depth"] == 0


def test_examples_without_a_route_are_left_out_of_it_alone() -> None:
    effects = measured({TEXT: linear(at(1)), DIRECT: linear(at(4))}, sweep(6), 12)
    missing = {band: np.where(np.arange(12) < 5, np.nan, values) for band, values in effects[TEXT].items()}
    found = Flow(effects | {TEXT: missing}, np.arange(12), sweep(6), range(6))
    depths, plain = rows(found.depths_table()), rows(flow({TEXT: linear(at(1)), DIRECT: linear(at(4))}, sweep(6)).depths_table())
    assert depths[TEXT]["examples"] == 7 and depths[TEXT]["effect"] == pytest.approx(missing[0, 6][5:].mean())
    assert depths[DIRECT] == plain[DIRECT] and found.contrasts_table()["low"].null_count() == 0


def test_one_picture_gives_numbers_without_intervals() -> None:
    effects = measured({TEXT: linear(at(1)), DIRECT: linear(at(4))}, sweep(6), 12)
    found = Flow(effects, np.zeros(12, int), sweep(6), range(6))
    for row in rows(found.depths_table()).values():
        assert row["depth"] is not None and row["depth_low"] is None and row["effect_low"] is None
    assert found.contrasts_table()["low"].null_count() == 2
