"""Masked runs that can be stopped at any moment and continue where they stopped."""

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from headflow.ablation import BatchSize, gate_gradients, stream_masks
from headflow.batching import batch_of
from headflow.components import Components
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest, unit_key
from headflow.execution.store import ResultStore
from headflow.local_differences import token_effects
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.targets import Target

# Masks in one work unit. A record is this long, so results do not depend on the batch size.
BLOCK = 64
# Corners in one work unit of gradients; a record is this many targets and gradients long.
CORNER_BLOCK = 8
_SAVE_EVERY_S = 2.0


def blocks(count: int, starts: Sequence[int] = (0,)) -> list[slice]:
    """Cut ``count`` masks into work units, anew at each of ``starts``: more masks extend a group and leave its full blocks as they are."""
    edges = [*sorted({0, *starts}), count]
    return [slice(at, min(at + BLOCK, stop)) for start, stop in itertools.pairwise(edges) for at in range(start, stop, BLOCK)]


def windows(spans: Sequence[slice], starts: Sequence[int], batch: int) -> list[int]:
    """Which window each work unit lies in: as many units on end as fill a batch, counted anew in every group of masks.

    A window's batches do not depend on which other windows are computed, and its units are saved together: so whatever stops and restarts a run,
    it gives the same numbers to the last bit.
    """
    across, found, place, window = max(1, batch // BLOCK), [], 0, -1
    for span in spans:
        place = 0 if span.start in {0, *starts} else place + 1
        window += place % across == 0
        found.append(window)
    return found


def run_example(
    store: ResultStore,
    context: str,
    masks: Bool[np.ndarray, "masks *shape"],
    prepare: Callable[[], tuple[Capture, Baseline, Target]],
    *,
    components: Components | None = None,
    starts: Sequence[int] = (0,),
    batch_size: BatchSize = "auto",
    done: Callable[[int, int], None] = lambda computed, found: None,
) -> Float[np.ndarray, " masks"]:
    """Targets of one example under every mask; only blocks that the store lacks are computed.

    Args:
        store: finished work.
        context: fingerprint of all that the numbers depend on, masks apart.
        masks: 1 = intact.
        prepare: captures the example; called only if something is to be computed.
        components: what the entries of a mask stand for; None = heads.
        starts: where a new group of masks begins (fit, held out …); groups grow independently of each other.
        batch_size: masked forwards at once.
        done: told of progress: masks computed now, masks found in the store.

    Raises:
        HeadflowError: a target is not a finite number, or the store cannot be written.
    """
    spans, context = blocks(len(masks), starts), _about(context, components)
    keys = [unit_key(context, masks[span]) for span in spans]
    found = store.get(keys)
    results = np.full(len(masks), np.nan, np.float32)
    missing = []
    for span, key in zip(spans, keys, strict=True):
        if key in found and len(found[key]) == span.stop - span.start:
            results[span] = found[key]
            done(0, span.stop - span.start)
        else:
            missing.append((span, key))
    if not missing:
        return results

    capture, baseline, target = prepare()
    places = np.concatenate([np.arange(span.start, span.stop) for span, _ in missing])
    ends = np.cumsum([span.stop - span.start for span, _ in missing])
    within = dict(zip(keys, windows(spans, starts, batch_of(capture, batch_size)), strict=True))
    # Missing units that end a window: only up to there is work saved, and no batch reaches beyond.
    last = [place for place in range(len(missing)) if place + 1 == len(missing) or within[missing[place][1]] != within[missing[place + 1][1]]]
    saved, last_save = 0, time.monotonic()

    def save(upto: int) -> None:
        nonlocal saved, last_save
        whole = int(np.searchsorted(ends[last], upto, side="right"))
        finished = last[whole - 1] + 1 if whole else 0
        if finished > saved:
            store.put((key, results[span]) for span, key in missing[saved:finished])
            saved, last_save = finished, time.monotonic()

    stop = 0
    try:
        options = {"baseline": baseline, "target": target, "components": components, "batch_size": batch_size, "edges": ends[last].tolist()}
        for start, stop, values in stream_masks(capture, masks[places], **options):
            if not np.isfinite(values).all():
                bad = int(places[start:stop][~np.isfinite(values)][0])
                stop = start
                raise HeadflowError(f"the target under mask {bad} is not a finite number; run this model in float32 or bfloat16")
            results[places[start:stop]] = values
            done(stop - start, 0)
            if time.monotonic() - last_save > _SAVE_EVERY_S:
                save(stop)
    finally:  # Ctrl-C included: what is finished is kept
        save(stop)
    return results


def run_gradients(
    store: ResultStore,
    context: str,
    corners: Bool[np.ndarray, "corners *shape"] | Float[np.ndarray, "corners *shape"],
    prepare: Callable[[], tuple[Capture, Baseline, Target]],
    *,
    components: Components | None = None,
    batch_size: BatchSize = "auto",
    done: Callable[[int, int], None] = lambda computed, found: None,
) -> tuple[Float[np.ndarray, " corners"], Float[np.ndarray, "corners *shape"]]:
    """Targets of one example and their gradients for every gate at every corner; see :func:`run_example` for the arguments.

    Of image tokens, which have no gates that mix, the local differences (:func:`headflow.local_differences.token_effects`) take the place of
    gradients. A record holds a block's targets and then its gradients. It is saved as soon as the block is done: blocks are short.

    Raises:
        HeadflowError: a target or gradient is not a finite number, or the store cannot be written.
    """
    differentiate = gate_gradients if components is None or components.mixes else token_effects
    targets, gradients = np.empty(len(corners), np.float32), np.empty(corners.shape, np.float32)
    spans = [slice(at, min(at + CORNER_BLOCK, len(corners))) for at in range(0, len(corners), CORNER_BLOCK)]
    context = digest(_about(context, components), "gate gradients")
    keys = [unit_key(context, corners[span]) for span in spans]
    found, prepared = store.get(keys), None
    for span, key in zip(spans, keys, strict=True):
        count, shape = span.stop - span.start, corners[span].shape
        if key in found and found[key].size == count + corners[span].size:
            targets[span], gradients[span] = found[key][:count], found[key][count:].reshape(shape)
            done(0, count)
            continue
        capture, baseline, target = prepared = prepared or prepare()
        options = {"baseline": baseline, "target": target, "components": components, "batch_size": batch_size}
        targets[span], gradients[span] = differentiate(capture, corners[span], **options)
        if not (np.isfinite(targets[span]).all() and np.isfinite(gradients[span]).all()):
            where = f"corners {span.start} to {span.stop - 1}"
            raise HeadflowError(f"the gradient at {where} is not finite; run this model in float32 or bfloat16, or set masks.corners to 0")
        store.put([(key, np.concatenate([targets[span], gradients[span].ravel()]))])
        done(count, 0)
    return targets, gradients


def _about(context: str, components: Components | None) -> str:
    """``context`` of masks over these components."""
    kind = "" if components is None else components.fingerprint()
    return digest(context, kind) if kind else context
