"""Masked forwards a second against what a researcher would write by hand, and the share of the machine's matrix rate."""

from collections.abc import Callable

import numpy as np
import torch

import headflow
from bench import subjects
from bench.rivals import expanded_cache, full_sequence
from bench.timing import fastest, interleaved, spread, table
from headflow.batching import automatic_batch
from headflow.models.capture import Capture

TOLERANCE = 1e-4
AIMS = {"full sequence": 25.0, "expanded cache": 1.5, "matrix rate": 0.7}


def run(source: str, *, tiny: bool = False) -> dict:
    """Measure both models.

    Args:
        source: the embedded model.
        tiny: a few masks and one round.
    """
    masks, few, rounds = (8, 2, 1) if tiny else (256, 8, 5)
    small, large = subjects.embedded(source), subjects.large(source, **({"layers": 2, "width": 128, "patches": 14} if tiny else {}))
    results = {"embedded": compare(small, masks, few if tiny else 64, rounds), "large": compare(large, masks, few, rounds)}
    results["matrix_rate"] = matrix_share(large, masks, rounds, side=256 if tiny else 2048)
    return results


def compare(subject: subjects.Subject, count: int, few: int, rounds: int) -> dict:
    """headflow against the two rivals on one example.

    Args:
        count: masks for headflow and the expanded cache.
        few: masks for the full sequence, whose time is scaled to ``count``.

    Returns:
        Medians in ms a mask, and ratios of each round as ``[median, least, most]``.
    """
    lvlm, capture, baseline, token = subject.lvlm, subject.capture, subject.baseline, subject.token
    masks = headflow.sample_masks(lvlm.layers, lvlm.heads, count, design="bernoulli")
    check_agreement(subject, masks[:few])

    batches = {
        "full sequence": fastest(lambda size: full_sequence(capture, masks[:few], baseline, token, size), [size for size in (2, 4, 8, 16) if size <= few]),
        "expanded cache": fastest(lambda size: expanded_cache(capture, masks[:64], baseline, token, size), [4, 8, 16, 32, 64][: 5 if count > 8 else 2]),
    }

    def new_example() -> Capture:
        return lvlm.capture(subject.picture, subjects.QUESTION)

    works: dict[str, Callable[[], object]] = {
        "headflow": lambda: headflow.run_masks(new_example(), masks, baseline=baseline),
        "headflow, prefix before": lambda: headflow.run_masks(capture, masks, baseline=baseline),
        "expanded cache": lambda: expanded_cache(new_example(), masks, baseline, token, batches["expanded cache"]),
        "expanded cache, prefix before": lambda: expanded_cache(capture, masks, baseline, token, batches["expanded cache"]),
        "full sequence": lambda: full_sequence(capture, masks[:few], baseline, token, batches["full sequence"]),
    }
    works["headflow"]()
    taken = interleaved(works, rounds)
    each = {name: [1e3 * t / (few if name == "full sequence" else count) for t in times] for name, times in taken.items()}
    pairs = {
        "full sequence": ("full sequence", "headflow"),
        "expanded cache": ("expanded cache", "headflow"),
        "expanded cache, prefix before": ("expanded cache, prefix before", "headflow, prefix before"),
    }
    ratios = {name: [slow / fast for slow, fast in zip(each[a], each[b], strict=True)] for name, (a, b) in pairs.items()}

    rows = []
    for name, values in each.items():
        size = automatic_batch(capture) if name.startswith("headflow") else batches[name.split(",")[0]]
        ratio = spread(ratios[name]) if name in ratios else ""
        # The aim for the full sequence is meant for long prefixes.
        aim = AIMS.get(name) if name != "full sequence" or capture.prefix > 200 else None
        rows.append([name, size, f"{1e3 / np.median(values):.4g}", spread(values), ratio, f"≥ {aim}" if aim else ""])
    table(
        f"{subject.name}, prefix {capture.prefix}, suffix {capture.suffix} tokens, {lvlm.layers} × {lvlm.heads} heads, {count} masks an example"
        f" (full sequence: {few}, scaled per mask); {rounds} rounds",
        ["", "batch", "masks/s", "ms a mask", "times slower than headflow", "aim"],
        rows,
    )
    return {
        "masks": count, "batches": batches, "ms_per_mask": {name: float(np.median(values)) for name, values in each.items()},
        "ratios": {name: [float(f(values)) for f in (np.median, min, max)] for name, values in ratios.items()},
    }  # fmt: skip


def check_agreement(subject: subjects.Subject, masks: np.ndarray) -> float:
    """Largest difference between the three implementations, in logits.

    Raises:
        AssertionError: it exceeds 1e-4.
    """
    ours = headflow.run_masks(subject.capture, masks, baseline=subject.baseline)
    theirs = [rival(subject.capture, masks, subject.baseline, subject.token, len(masks)) for rival in (full_sequence, expanded_cache)]
    difference = max(float(np.abs(values - ours).max()) for values in theirs)
    assert difference <= TOLERANCE, f"{subject.name}: targets differ by {difference:.2g} (allowed {TOLERANCE:.0e})"
    return difference


def suffix_flops(subject: subjects.Subject) -> tuple[float, float]:
    """Floating-point operations that one masked forward needs by definition, and those of them that are the same for all masks.

    Projections, MLP, scores and weighted sums against one set of image keys for each head, causal in the suffix; in the
    last layer keys and values of the whole suffix and the rest for the last position; the LM head for one position. The
    same for all masks are the first layer's queries, keys and values and each head's two outputs: nothing before them
    depends on a mask.
    """
    config, capture, lvlm = subject.lvlm.decoder.config, subject.capture, subject.lvlm
    suffix, prefix, width = capture.suffix, capture.prefix, config.hidden_size
    dim = getattr(config, "head_dim", None) or width // lvlm.heads
    inner, keys_values, mlp = lvlm.heads * dim, 2 * lvlm.kv_heads * dim * width, 3 * width * config.intermediate_size
    attention = 2 * inner * (suffix * prefix + suffix * (suffix + 1) // 2)
    layer = suffix * (2 * width * inner + keys_values + mlp) + attention
    last = suffix * keys_values + 2 * width * inner + mlp + 2 * inner * (prefix + suffix)
    shared = suffix * (width * inner + keys_values) + attention
    return 2.0 * ((lvlm.layers - 1) * layer + last + width * config.vocab_size), 2.0 * shared


def matrix_share(subject: subjects.Subject, count: int, rounds: int, *, side: int) -> dict:
    """The suffix pass's rate as a share of that of one large float32 product; all cores, interleaved.

    Args:
        side: of the large square product.
    """
    lvlm, capture = subject.lvlm, subject.capture
    masks = headflow.sample_masks(lvlm.layers, lvlm.heads, count)
    width, mlp = lvlm.decoder.config.hidden_size, lvlm.decoder.config.intermediate_size
    rows = automatic_batch(capture) * capture.suffix
    repeats = 4 if side > 1000 else 1
    shapes = {" × ".join(map(str, shape)): shape for shape in ((side, side, side), (rows, width, width), (rows, width, mlp))}
    operands = {name: (torch.randn(m, k), torch.randn(k, n)) for name, (m, k, n) in shapes.items()}
    works: dict[str, Callable[[], object]] = {name: lambda a=a, b=b: [torch.mm(a, b) for _ in range(repeats)] for name, (a, b) in operands.items()}
    works["suffix pass"] = lambda: headflow.run_masks(capture, masks, baseline=subject.baseline)
    for work in works.values():
        work()
    taken = interleaved(works, rounds)
    needed, same = suffix_flops(subject)
    flops = {name: 2.0 * m * k * n * repeats for name, (m, k, n) in shapes.items()} | {"suffix pass": needed * count}
    rates = {name: [flops[name] / t / 1e9 for t in times] for name, times in taken.items()}
    best = max(rates[next(iter(shapes))])
    shares = [rate / best for rate in rates["suffix pass"]]
    table(
        f"{subject.name}: {needed / 1e9:.2f} GFLOP a mask by definition, {same / needed:.1%} of them the same for all masks;"
        f" aim ≥ {AIMS['matrix rate']:.0%} of the best large product",
        ["float32", "GFLOP/s", "share of the best large product"],
        [[name, spread(values), spread([value / best for value in values], 2)] for name, values in rates.items()],
    )
    return {
        "gflop_per_mask": needed / 1e9, "gflop_per_mask_same_for_all": same / 1e9, "gflops": {name: float(np.median(values)) for name, values in rates.items()},
        "best_product_gflops": best, "share": [float(f(shares)) for f in (np.median, min, max)],
    }  # fmt: skip
