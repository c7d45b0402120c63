"""In what order text and picture arrive: effects of closed routes against depth, over examples (METHOD, "Order").

Single windows show little where a route is redundant over layers: what one window loses another makes up for. So each route is also closed from
a layer on and below a layer. Going down from the last layer, each further layer closed adds something to the fall of the target, and going up
from the first likewise; a layer's *part* is the mean of the two. Parts add up to the effect of the whole route, whatever the redundancy: they
are what Shapley values would be over these two orders of closing alone. The *depth* of a route is the mean layer weighted by its parts. Parts keep
their sign there, as the sizes of parts that are nothing but noise would pull every depth to the middle of the model.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.attribution.multiple import holm
from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tables.schema import Table
from headflow.tracing.bands import Band, Sweep
from headflow.tracing.intervals import Estimate, bootstrap, mean, percentiles, ratio, settled

PICTURE, ALL = "picture", "all"
LEAST = 0.01
"""Share of the picture's effect below which nothing is said of a route's depth."""
_OPPOSED = 0.25  # share of a route's effect that layers may take the other way before its depth is left open
CLOSED = ("window", "from", "below", "everywhere")


def flow_masks(routes: Sequence[str], from_image: Sequence[str], sweep: Sweep) -> tuple[list[tuple[str, Band]], Bool[np.ndarray, "masks routes bands"]]:
    """What is closed in each masked run, and the masks: every route in every band, then both routes from the picture and all routes everywhere.

    The first mask is intact.
    """
    bands, whole = sweep.bands, (0, sweep.layers)
    closed: list[tuple[str, Band]] = [(route, band) for route in routes for band in bands]
    masks = np.ones((1 + len(closed) + 2, len(routes), len(bands)), bool)
    masks[np.arange(1, 1 + len(closed)), *(index.ravel() for index in np.indices((len(routes), len(bands))))] = False
    everywhere = bands.index(whole)
    masks[-2, [routes.index(route) for route in from_image if route in routes], everywhere] = False
    masks[-1, :, everywhere] = False
    return [*closed, (PICTURE, whole), (ALL, whole)], masks


def effects_table(rows: Sequence[tuple[str, str, Band, float]], decoder_layers: Sequence[int]) -> pl.DataFrame:
    """(example, route, band, effect) as a FLOW_EFFECTS table."""
    named = [(name, route, decoder_layers[first], decoder_layers[stop - 1], effect) for name, route, (first, stop), effect in rows]
    return pl.DataFrame(named, schema=_schema(FLOW_EFFECTS), orient="row")


class Flow:
    """The effects of one model's routes, and what they say.

    Args:
        effects: route → band → effect of each example, nan where it has no such route; target units.
        pictures: number of each example's picture.
        sweep: where routes were closed.
        decoder_layers: the decoder layer behind each number of ``sweep``.
        confidence: level of the intervals.
        template: name of the template that all examples are of; None = all examples.
    """

    def __init__(
        self, effects: Mapping[str, Mapping[Band, Float[np.ndarray, "examples"]]], pictures: Int[np.ndarray, "examples"], sweep: Sweep,
        decoder_layers: Sequence[int], *, confidence: float = 0.95, draws: int = 1999, seed: int = 0, template: str | None = None,
    ) -> None:  # fmt: skip
        self.template = template
        self.effects, self.pictures, self.sweep, self.decoder_layers, self.confidence = effects, pictures, sweep, decoder_layers, confidence
        self.routes = [route for route in effects if route not in (PICTURE, ALL) and np.isfinite(effects[route][0, sweep.layers]).any()]
        self.whole = (0, sweep.layers)
        self.total = effects[PICTURE][self.whole]
        self._weights = bootstrap(pictures, draws, seed, "flow")
        self._depths = {route: self._depth(route) for route in self.routes}

    def parts(self, route: str) -> Float[np.ndarray, "examples blocks"]:
        """What each block of layers adds to the effect of the route, mean over closing from above and from below; they add up to it."""
        at, steps = self.effects[route], self.sweep.steps
        none = np.zeros_like(at[self.whole])
        down = np.stack([*(at[step, self.sweep.layers] for step in steps[:-1]), none], 1)
        up = np.stack([none, *(at[0, step] for step in steps[1:])], 1)
        return (down[:, :-1] - down[:, 1:] + up[:, 1:] - up[:, :-1]) / 2

    def bands_table(self) -> pl.DataFrame:
        """Mean effect of every closing, as a FLOW_BANDS table."""
        rows = []
        for route in (*self.routes, PICTURE, ALL):
            closings = [("everywhere", self.whole, self._middle(self.whole))]
            if route in self.routes:
                steps, layers = self.sweep.steps, self.sweep.layers
                closings = [("window", band, self._middle(band)) for band in self.sweep.windows] + closings
                closings += [("from", (step, layers), float(self.decoder_layers[step])) for step in steps[:-1]]
                closings += [("below", (0, step), float(self.decoder_layers[step] if step < layers else self.decoder_layers[-1] + 1)) for step in steps[1:]]
            for closed, band, at in closings:
                values = self.effects[route][band]
                centre = self._mean(values)
                share = ratio(values[:, None], self.total, self.pictures, self.confidence)
                rows.append(
                    {"template": self.template, "route": route, "closed": closed}
                    | {"first_layer": self.decoder_layers[band[0]], "last_layer": self.decoder_layers[band[1] - 1]}
                    | {"at": at, "mean": float(centre.value), "low": float(centre.low), "high": float(centre.high), "p": float(centre.p)}
                    | {"share": float(share.value[0]), "share_low": float(share.low[0]), "share_high": float(share.high[0])}
                    | {"examples": int(np.isfinite(values).sum())}
                )  # fmt: skip
        return _table(rows, FLOW_BANDS)

    def depths_table(self) -> pl.DataFrame:
        """At which depth each route matters, as a FLOW_DEPTHS table."""
        rows = []
        for route in self.routes:
            values = self.effects[route][self.whole]
            effect, (depth, _) = self._mean(values), self._depths[route]
            share = ratio(values[:, None], self.total, self.pictures, self.confidence)
            windows = np.stack([self.effects[route][band] for band in self.sweep.windows], 1)
            middles = np.array([self._middle(band) for band in self.sweep.windows])
            means = mean(windows, self.pictures, self.confidence, tests=len(middles))
            # Rounding is no finding, here as elsewhere.
            matter = (means.low > 0) & (settled(means.p, means.value, float(np.nanmean(self.total))) < 1)
            above, weight = middles[matter], means.value[matter]
            rows.append(
                {"template": self.template, "route": route, "effect": float(effect.value), "effect_low": float(effect.low), "effect_high": float(effect.high)}
                | {"effect_p": float(effect.p), "share": float(share.value[0])}
                | {"depth": float(depth.value), "depth_low": float(depth.low), "depth_high": float(depth.high)}
                | {"window_depth": float(weight @ above / weight.sum()) if len(above) else np.nan}
                | {"first": float(above[0]) if len(above) else np.nan, "last": float(above[-1]) if len(above) else np.nan}
                | {"examples": int(np.isfinite(values).sum())}
            )  # fmt: skip
        return _table(rows, FLOW_DEPTHS)

    def contrasts_table(self) -> pl.DataFrame:
        """Every two routes against each other, paired by example, as a FLOW_CONTRASTS table."""
        rows = []
        for measure in ("depth", "effect"):
            found = [(route, other, self._contrast(measure, route, other)) for route, other in combinations(self.routes, 2)]
            corrected = holm([float(gap.p) for *_, gap in found])
            rows += [
                {"template": self.template, "measure": measure, "route": route, "other": other}
                | {"difference": float(gap.value), "low": float(gap.low), "high": float(gap.high), "p": float(gap.p), "p_holm": p}
                for (route, other, gap), p in zip(found, corrected, strict=True)
            ]  # fmt: skip
        return _table(rows, FLOW_CONTRASTS)

    def _contrast(self, measure: str, route: str, other: str) -> Estimate:
        if measure == "depth":
            (one, drawn), (two, other_drawn) = self._depths[route], self._depths[other]
            return percentiles(float(one.value - two.value), drawn - other_drawn, self.confidence)
        gap = self.effects[route][self.whole] - self.effects[other][self.whole]
        found = ratio(gap[:, None], self.total, self.pictures, self.confidence)
        return Estimate(*(part[0] for part in (found.value, found.low, found.high, found.p)))

    def _depth(self, route: str) -> tuple[Estimate, Float[np.ndarray, "draws"]]:
        """Mean layer of a route's parts and its bootstrap draws; nan where the effect cannot be told from zero or is little."""
        parts = self.parts(route)
        known = np.isfinite(parts).all(1)
        middles = np.array([self._middle(block) for block in self.sweep.blocks])
        parts, weights = parts[known], self._weights[:, known]
        nothing = np.full(len(weights), np.nan)
        effect = self._mean(self.effects[route][self.whole])
        if not self._told(effect) or abs(effect.value) < LEAST * abs(np.nanmean(self.total)):
            return Estimate(*[np.float64(np.nan)] * 4), nothing
        if self._opposed(parts, self.pictures[known]):
            return Estimate(*[np.float64(np.nan)] * 4), nothing
        ends = middles[0], middles[-1]  # parts of another sign can put a mean beyond them
        sums, weighted = parts.sum(1), parts @ middles
        value = float(np.clip(weighted.mean() / sums.mean(), *ends))
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.clip((weights @ weighted) / (weights @ sums), *ends)
        if len(set(self.pictures[known].tolist())) < 2:
            return Estimate(np.float64(value), *[np.float64(np.nan)] * 3), nothing
        return percentiles(value, drawn, self.confidence), drawn

    def _opposed(self, parts: Float[np.ndarray, "examples blocks"], pictures: Int[np.ndarray, "examples"]) -> bool:
        """Whether layers surely pull against the route's effect by so much that a mean layer says nothing."""
        found = mean(parts, pictures, self.confidence, tests=parts.shape[1])
        total = float(parts.sum(1).mean())
        against = (found.high < 0) if total > 0 else (found.low > 0)
        return bool(np.abs(found.value[against]).sum() > _OPPOSED * abs(total))

    def _mean(self, values: Float[np.ndarray, "examples"]) -> Estimate:
        found = mean(values, self.pictures, self.confidence)
        return Estimate(found.value, found.low, found.high, settled(found.p, found.value, float(np.nanmean(self.total))))

    def _told(self, effect: Estimate) -> bool:
        """Whether an effect can be told from zero; for a single picture, whether it is more than rounding."""
        if np.isnan(effect.p):
            return bool(settled(np.float64(0.0), effect.value, float(np.nanmean(self.total))) < 1)
        return bool(effect.p < 1 - self.confidence)

    def _middle(self, band: Band) -> float:
        """Mean decoder layer of a band."""
        return float(np.mean(self.decoder_layers[band[0] : band[1]]))


def _table(rows: list[dict], table: Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=_schema(table)).with_columns(pl.col(pl.Float64).fill_nan(None))


def _schema(table: Table) -> dict[str, pl.DataType | type[pl.DataType]]:
    return {name: column.dtype for name, column in table.columns.items()}
