"""What is planted: which heads read the picture, where they write, and what the answer's logit then is.

The target is the logit of the object's name. Every head that is ablated reads nothing of any name, for the baselines of :data:`BASELINES`;
so the target is a closed form of which heads are intact:

    f(m) = Σ direct readers w·m  +  weight · response(Σ pooled readers w·m)

A *direct* reader adds its share to the logit, straight or by way of the role token and a relay. *Pooled* readers meet in one place,
from where a layer's MLP passes on their response: min(1, x) where either suffices, max(0, x − 1) where both are needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from headflow.datasets.planted import CATEGORIES
from headflow.errors import HeadflowError
from headflow.models.planted.games import banzhaf, coalitions, shapley

LAYERS, HEADS = 5, 8

BASELINES = ("mean", "blank", "closed")
"""Baselines that say nothing of any name, so that the truth holds: the mean over balanced references (``examples.source: planted``), a
blank picture, and none. ``swap`` holds another object, which votes for another name."""

TARGET = "logit"
"""The target that the truth is about."""

Head = tuple[int, int]


def no_truth(target: str, baseline: str) -> str | None:
    """Why the planted truth says nothing of runs with this target and baseline; None if it does."""
    if target != TARGET:
        return f"the truth is about the target '{TARGET}', not '{target}'"
    if baseline not in BASELINES:
        return f"the truth holds for the baselines {', '.join(BASELINES)}, not for '{baseline}'"
    return None


@dataclass(frozen=True)
class Reader:
    """A head that takes the object's name out of the picture.

    Attributes:
        layer, head: which head.
        weight: what it adds, logits; for a pooled reader a share of what the response takes in.
        at: the token that reads: the final one, or the role token, from where a relay fetches it.
        pooled: whether it adds to the pool instead of the logit.
        category: the only category whose names it reads; None = all names.
        attention: share of its attention, at the token that reads, that goes to the picture; the rest goes to the first token.
    """

    layer: int
    head: int
    weight: float
    at: Literal["final", "role"] = "final"
    pooled: bool = False
    category: str | None = None
    attention: float = 1.0

    @property
    def place(self) -> Head:
        return self.layer, self.head


@dataclass(frozen=True)
class Response:
    """What the MLP of ``layer`` makes of the pool: x → linear·x + slope·max(0, x − threshold), in logits.

    The thresholds lie away from every value that the pool takes when heads are whole, so that no derivative falls on a kink.
    """

    layer: int
    linear: float
    slope: float
    threshold: float

    def __call__(self, pool: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return self.linear * pool + self.slope * np.maximum(0.0, pool - self.threshold)

    def derivative(self, pool: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Change of the response by the pool; on the kink that of the side below."""
        return self.linear + self.slope * (pool > self.threshold)


@dataclass(frozen=True)
class Circuit:
    """One planted circuit and its truth.

    Attributes:
        name: its name in the params.
        meaning: what it is there to show.
        readers: the heads that carry the picture.
        response: what becomes of the pooled readers' sum.
        relays: heads that move names from the role token to the final one. They do not look at the picture, so ablating them, which swaps
            what is read *at image positions*, changes nothing.
        decoys: heads that give the picture almost all of their attention and write nothing.
    """

    name: str
    meaning: str
    readers: tuple[Reader, ...]
    response: Response | None = None
    relays: tuple[Head, ...] = ()
    decoys: tuple[Head, ...] = ()
    layers: int = LAYERS
    heads: int = HEADS

    @property
    def carriers(self) -> tuple[Head, ...]:
        """The heads that carry the picture to the answer, from the input upward."""
        return tuple(sorted(reader.place for reader in self.readers))

    @property
    def categories(self) -> tuple[str | None, ...]:
        """Categories that the truth tells apart; (None,) where it is the same for all."""
        return tuple(CATEGORIES) if any(reader.category for reader in self.readers) else (None,)

    @property
    def routes(self) -> tuple[tuple[int, str, str], ...]:
        """The order of the flow: (layer, role of the token that is read, role of the token that reads), from the input upward."""
        steps = {(reader.layer, "image", reader.at) for reader in self.readers} | {(layer, "role", "final") for layer, _ in self.relays}
        return tuple(sorted(steps))

    def value(self, mask: Bool[np.ndarray, "*masks layers heads"] | Float[np.ndarray, "*masks layers heads"], category: str | None = None) -> np.ndarray:
        """The logit of the object's name under each mask, ``[*masks]``; exact for the baselines of :data:`BASELINES`.

        Args:
            mask: 1 = head intact, 0 = ablated; values between mix the two outputs of a head.
            category: the object's; needed where heads depend on it.

        Raises:
            HeadflowError: the mask has another shape, or the category is missing or unknown.
        """
        total, pool = self._sums(mask, category)
        return total if self.response is None else total + self.response(pool)

    def gradient(self, mask: Float[np.ndarray, "*masks layers heads"], category: str | None = None) -> Float[np.ndarray, "*masks layers heads"]:
        """The derivative of :meth:`value` by every head's gate: what gate gradients measure on the model."""
        _, pool = self._sums(mask, category)
        slope = 0.0 if self.response is None else self.response.derivative(pool)
        gradient = np.zeros((*pool.shape, self.layers, self.heads))
        for reader in self.readers:
            if reader.category in (None, category):
                gradient[..., reader.layer, reader.head] = reader.weight * (slope if reader.pooled else 1.0)
        return gradient

    def subsets(self) -> Bool[np.ndarray, "subsets layers heads"]:
        """Every mask over the carriers, the other heads intact; in the order of :func:`headflow.models.planted.games.coalitions`."""
        states = coalitions(len(self.carriers))
        masks = np.ones((len(states), self.layers, self.heads), bool)
        for column, (layer, head) in enumerate(self.carriers):
            masks[:, layer, head] = states[:, column]
        return masks

    def banzhaf(self, category: str | None = None, ablation_probability: float = 0.5) -> Float[np.ndarray, "layers heads"]:
        """Exact Banzhaf value of every head, logits: its mean effect when every other head is ablated with that probability."""
        return self._grid(lambda worth: banzhaf(worth, 1 - ablation_probability), category)

    def shapley(self, category: str | None = None) -> Float[np.ndarray, "layers heads"]:
        """Exact Shapley value of every head, logits; they add up to the whole effect."""
        return self._grid(shapley, category)

    def single_effects(self, category: str | None = None) -> Float[np.ndarray, "layers heads"]:
        """f(intact) − f(this head alone ablated), logits: what single-head ablation finds."""
        heads = self.layers * self.heads
        masks = ~np.eye(heads, dtype=bool).reshape(heads, self.layers, self.heads)
        return (self.value(np.ones((self.layers, self.heads)), category) - self.value(masks, category)).reshape(self.layers, self.heads)

    def total(self, category: str | None = None) -> float:
        """f(intact) − f(every head ablated), logits."""
        whole = np.ones((self.layers, self.heads))
        return float(self.value(whole, category) - self.value(0 * whole, category))

    def carrying(self, category: str | None = None) -> Bool[np.ndarray, "layers heads"]:
        """The heads that carry pictures of this category; of any, where it is None."""
        grid = np.zeros((self.layers, self.heads), bool)
        for reader in self.readers:
            if category is None or reader.category in (None, category):
                grid[reader.place] = True
        return grid

    def _sums(self, mask: np.ndarray, category: str | None) -> tuple[np.ndarray, np.ndarray]:
        """What direct readers add to the logit and what pooled ones bring together, ``[*masks]`` each."""
        mask = np.asarray(mask, float)
        if mask.shape[-2:] != (self.layers, self.heads):
            raise HeadflowError(f"planted circuit {self.name!r} has {self.layers} layers × {self.heads} heads, the mask {list(mask.shape[-2:])}")
        if category not in ((None, *CATEGORIES) if self.categories == (None,) else CATEGORIES):
            raise HeadflowError(f"planted circuit {self.name!r}: category {category!r} is not one of {', '.join(CATEGORIES)}")
        total, pool = np.zeros(mask.shape[:-2]), np.zeros(mask.shape[:-2])
        for reader in self.readers:
            if reader.category in (None, category):
                part = reader.weight * mask[..., reader.layer, reader.head]
                total, pool = (total, pool + part) if reader.pooled else (total + part, pool)
        return total, pool

    def _grid(self, solve: Callable[[np.ndarray], np.ndarray], category: str | None) -> Float[np.ndarray, "layers heads"]:
        grid = np.zeros((self.layers, self.heads))
        for (layer, head), worth in zip(self.carriers, solve(self.value(self.subsets(), category)), strict=True):
            grid[layer, head] = worth
        return grid


def _readers(*specs: tuple, **shared: object) -> tuple[Reader, ...]:
    return tuple(Reader(*spec, **shared) for spec in specs)


def _either(layer: int, weight: float, threshold: float = 0.8) -> Response:
    """min(x, threshold) / threshold: one of two heads of weight 1 is enough. The pool takes the values 0, 1 and 2."""
    return Response(layer, weight / threshold, -weight / threshold, threshold)


def _both(layer: int, weight: float, threshold: float = 1.2) -> Response:
    """max(0, x − threshold) / (2 − threshold): both heads of weight 1 are needed. The pool takes the values 0, 1 and 2."""
    return Response(layer, 0.0, weight / (2 - threshold), threshold)


def _positive(layer: int, weight: float, threshold: float = 0.25) -> Response:
    """max(0, x − threshold) / (1 − threshold): heads of weight 1 and −1 cancel. The pool takes the values −1, 0 and 1."""
    return Response(layer, 0.0, weight / (1 - threshold), threshold)


CIRCUITS: dict[str, Circuit] = {
    circuit.name: circuit
    for circuit in (
        Circuit("additive", "each head adds its own share", _readers((1, 2, 3.0), (2, 0, 2.0), (2, 5, 1.5), (3, 3, 1.0), (4, 1, 0.5))),
        Circuit(
            "redundant", "either of two heads suffices",
            _readers((1, 1, 1.0), (2, 4, 1.0), pooled=True) + _readers((4, 0, 2.0)), _either(3, 6.0),
        ),
        Circuit(
            "joint", "two heads are both needed",
            _readers((1, 3, 1.0), (2, 1, 1.0), pooled=True) + _readers((4, 5, 2.0)), _both(3, 6.0),
        ),
        Circuit(
            "chain", "image to role token in one layer, role token to final token in a later one",
            _readers((1, 0, 5.0), (1, 4, 2.0), at="role"), relays=((3, 2),),
        ),
        Circuit(
            "decoy", "heads that look at the picture write nothing, those that carry it hardly look",
            _readers((1, 5, 3.0), (2, 2, 3.0), (3, 0, 2.0), attention=0.05), decoys=((1, 1), (2, 3), (3, 4)),
        ),
        Circuit(
            "cancelled", "what an early head says a later one takes back",
            _readers((0, 2, 1.0), (2, 3, -1.0), pooled=True) + _readers((3, 5, 5.0), (4, 1, 2.0)), _positive(3, 4.0),
        ),
        Circuit(
            "category", "stones and trees go through different heads",
            _readers((1, 0, 3.0), (2, 4, 2.0), (3, 1, 1.0), category="stone")
            + _readers((1, 5, 1.5), (2, 2, 2.5), (3, 3, 2.0), category="tree") + _readers((4, 2, 2.0)),
        ),
    )
}  # fmt: skip


def find_circuit(name: str | None) -> Circuit:
    """The circuit called ``name``.

    Raises:
        HeadflowError: there is none.
    """
    if name not in CIRCUITS:
        raise HeadflowError(f"planted circuit {name!r} is not one of {', '.join(CIRCUITS)}")
    return CIRCUITS[name]


def truth_of(
    circuit: Circuit, categories: Sequence[str | None], estimand: str = "banzhaf", ablation_probability: float = 0.5
) -> Float[np.ndarray, "examples layers heads"]:
    """The exact values of every head for examples of these categories; ``estimand`` is banzhaf (with that ablation probability) or shapley."""
    if estimand not in ("banzhaf", "shapley"):
        raise HeadflowError(f"estimand {estimand!r} is not one of banzhaf, shapley")
    known = {category: circuit.shapley(category) if estimand == "shapley" else circuit.banzhaf(category, ablation_probability) for category in set(categories)}
    return np.stack([known[category] for category in categories])
