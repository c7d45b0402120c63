"""What each image token does to the word that names an object: attribution beside attention.

The target is the logit of the naming token where the model predicts it, with its own words so far fed to it. An image token's effect is
that of being real rather than the baseline's for every text token, those said before included: it goes by all routes, not by the naming token's
own attention alone. Kept apart by the layer in whose heads the text reads it, the effects are exact differences of each head's output, and of first
order in what comes after (:func:`headflow.tracing.head_maps.attribution_maps`); layers add up to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headflow import seeds
from headflow.ablation import BatchSize
from headflow.attribution import masks, shapley
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Records
from headflow.execution.fingerprint import digest_json, record_key
from headflow.execution.records import find_or_make
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.targets import Target
from headflow.tracing import head_maps


def before_naming(capture: Capture) -> Capture:
    """The same example with the words so far as a part of its prompt, so that what is explained is the next one.

    Args:
        capture: the example with what the model says, up to the token that is explained, as its answer.

    Raises:
        HeadflowError: it is captured without an answer.
    """
    if not capture.answer_ids:
        raise HeadflowError("no token is to be explained: capture the example with what the model says up to that token")
    return replace(capture, answer_ids=[], logits=capture.answer_logits[-1], answer_logits=capture.answer_logits[-1:])


def naming_effects(
    capture: Capture, *, baseline: Baseline | str = "blank", corners: int = 8, seed: int = 0, batch_size: BatchSize = "auto"
) -> Float[np.ndarray, "layers image"]:  # fmt: skip
    """What each image token does to the logit of the last of the words that the example was captured with, through the heads of each layer, logits.

    Args:
        capture: the example with the description up to the naming token, that included, as its answer.
        baseline: what a cut token shows instead: ``"blank"``, ``"closed"`` (nothing), or a :class:`Baseline`.
        corners: sets of image tokens, in complementary pairs, over which effects are averaged.
        seed: of the sets.
        batch_size: corners at once.

    Raises:
        HeadflowError: see :func:`before_naming` and :func:`headflow.local_differences.token_effects`.
    """
    target = Target("logit", capture.answer_ids[-1] if capture.answer_ids else -1)
    options = {"corners": corners, "seed": seed, "baseline": baseline, "target": target, "batch_size": batch_size}
    return head_maps.attribution_maps(before_naming(capture), **options).sum(1)


def stored_effects(
    store: Records, context: str, said: Sequence[int], prepare: Callable[[], tuple[Capture, Baseline]], *, baseline: str, corners: int, seed: int,
    batch_size: BatchSize = "auto",
) -> Float[np.ndarray, "layers image"]:  # fmt: skip
    """:func:`naming_effects`, found in the store where it was computed before.

    Args:
        store: finished work.
        context: fingerprint of the model, the picture and the prompt.
        said: token ids of the description up to the naming token, that included.
        prepare: captures the example with ``said`` as its answer, and its baseline; called only if something is to be computed.
        baseline: its name.
        corners, seed, batch_size: as for :func:`naming_effects`.

    Raises:
        HeadflowError: an effect is not a finite number, or the store cannot be used.
    """
    code = (Path(file).read_bytes() for file in (__file__, *(module.__file__ for module in (head_maps, masks, seeds, shapley))))

    def make() -> Float[np.ndarray, " numbers"]:
        capture, twins = prepare()
        effects = naming_effects(capture, baseline=twins, corners=corners, seed=seed, batch_size=batch_size)
        if not np.isfinite(effects).all():
            raise HeadflowError("the effect of an image token is not a finite number; run this model in float32 or bfloat16, or set localising.corners to 0")
        # The number of layers goes first: a record is a row of numbers.
        return np.concatenate([[len(effects)], effects.ravel()])

    found = find_or_make(store, record_key(context, "localise", *code, digest_json([list(said), baseline, corners, seed])), make)
    return found[1:].reshape(int(found[0]), -1)
