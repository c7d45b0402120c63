"""Exact 7B shapes on a GPU: checks, masked forwards a second beside the two rivals, share of the card's matrix rate, memory."""

import gc
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

import headflow
from bench import subjects
from bench.rivals import expanded_cache, full_sequence
from bench.shapes import SHAPES, Shape, build, fewer_bits, pictures, whole_groups
from bench.speed import suffix_flops
from bench.timing import interleaved, seconds, spread, table
from headflow.batching import automatic_batch
from headflow.checks import Checks, check_intervention
from headflow.errors import HeadflowError
from headflow.models.baselines import mean_baseline
from headflow.models.lvlm import LVLM
from headflow.tolerance import TOLERANCE

AIM = 0.6
_REFERENCES = 4
_FLOAT32_FROM = 48e9  # bytes of memory: the weights in float32, and room to work


def run(source: str, *, tiny: bool = False, model: str | None = None, device: str = "auto", profile: bool = False) -> dict:
    """Measure both shapes, or one.

    Args:
        source: not used; the models are built here.
        tiny: two layers and a narrow model, to see that it runs.
        model: ``llava`` or ``qwen``; None = both.
        device: ``auto`` takes the first GPU.
        profile: print which kernels the masked forwards spend their time in.

    Raises:
        HeadflowError: there is no GPU and the shapes are not the tiny ones.
    """
    place = _place(device, tiny)
    card = "CPU"
    if place.type == "cuda":
        card = f"{torch.cuda.get_device_name(place)}, {torch.cuda.get_device_properties(place).total_memory / 2**30:.0f} GiB"
    print(f"\n{card}; bfloat16" + ("; TINY shapes: these figures only show that the benchmark runs" if tiny else ""))
    found = {}
    for name in [model] if model else SHAPES:
        found[name] = measure(SHAPES[name], place, tiny=tiny, profile=profile)
        gc.collect()  # the next model needs the room
        if place.type == "cuda":
            torch.cuda.empty_cache()
    return {"card": card, **found}


def _place(device: str, tiny: bool) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise HeadflowError(f"device {device!r} was asked for, but torch sees no GPU")
    if device == "cpu" and not tiny:
        raise HeadflowError("the exact 7B shapes are measured on a GPU, and torch sees none; `python -m bench gpu --tiny` runs small ones here")
    return torch.device(device)


def measure(shape: Shape, place: torch.device, *, tiny: bool, profile: bool = False) -> dict:
    """One model: checks in float32 (where it fits) and in bfloat16, then everything side by side.

    Returns:
        Checks, ms a mask, ratios, shares of the matrix rate as ``[median, least, most]``, and peaks in GiB.
    """
    count, few, rounds = (16, 4, 1) if tiny else (1024, 32, 5)
    roomy = place.type == "cpu" or torch.cuda.get_device_properties(place).total_memory >= _FLOAT32_FROM
    lvlm = build(shape, tiny=tiny, device=place, dtype=torch.float32 if roomy else torch.bfloat16)
    name = shape.name + (" (tiny)" if tiny else "")
    parameters = sum(weight.numel() for weight in lvlm.model.parameters())
    shown = pictures(shape, 1 + _REFERENCES, tiny=tiny)
    checks = []
    if roomy:
        checks.append(_checked(_subject(name, lvlm, shown), shown[1], "float32"))
        fewer_bits(lvlm, torch.bfloat16)
    subject = _subject(name, lvlm, shown)
    checks.append(_checked(subject, shown[1], "bfloat16"))
    columns = ("identity", "swap", "prefix", "effect", "agreement", "tolerance", "verdict")
    table(
        f"{name}: {parameters / 1e9:.3g} × 10⁹ parameters, {lvlm.layers} × {lvlm.heads} heads ({lvlm.kv_heads} key heads),"
        f" prefix {subject.capture.prefix}, suffix {subject.capture.suffix} tokens."
        " Differences relative to the largest logit; agreement: with the two rivals",
        ["checks", *columns],
        [[row["dtype"], *(f"{row[column]:.2g}" if isinstance(row.get(column), float) else row.get(column, "") for column in columns)] for row in checks],
    )
    return {"parameters": parameters, "checks": checks, **_timed(subject, count, few, rounds, tiny=tiny, profile=profile)}


def _checked(subject: subjects.Subject, other: Image.Image, dtype: str) -> dict[str, str | float]:
    """The four checks and the agreement with the rivals; one that fails is told, and the measuring goes on."""
    allowed = 10 * TOLERANCE[torch.float32] if dtype == "float32" else TOLERANCE[torch.bfloat16]
    row: dict[str, str | float] = {"dtype": dtype, "agreement": agreement(subject, 4), "verdict": "passed"}
    if not row["agreement"] <= allowed:
        row["verdict"] = f"FAILED: headflow's targets and the rivals' differ by more than {allowed:.0e}"
    try:
        found: Checks = check_intervention(subject.capture, subject.lvlm.capture(other, subjects.QUESTION))
    except HeadflowError as error:
        return row | {"verdict": f"FAILED: {error}"}
    return row | {name: getattr(found, name) for name in ("identity", "swap", "prefix", "effect", "tolerance")}


def _subject(name: str, lvlm: LVLM, shown: list[Image.Image]) -> subjects.Subject:
    capture = lvlm.capture(shown[0], subjects.QUESTION)
    baseline = mean_baseline(lvlm.capture(picture, subjects.QUESTION) for picture in shown[1:])
    return subjects.Subject(name, lvlm, shown[0], capture, baseline, capture.greedy_token())


def agreement(subject: subjects.Subject, count: int) -> float:
    """Largest difference between headflow's targets and each rival's over ``count`` masks, relative to the largest logit."""
    masks = _masks(subject.lvlm, count)
    ours = headflow.run_masks(subject.capture, masks, baseline=subject.baseline)
    theirs = [rival(subject.capture, masks, subject.baseline, subject.token, count) for rival in (full_sequence, expanded_cache)]
    return max(float(np.abs(values - ours).max()) for values in theirs) / float(subject.capture.logits.abs().max())


def _masks(lvlm: LVLM, count: int) -> np.ndarray:
    return whole_groups(headflow.sample_masks(lvlm.layers, lvlm.heads, count, design="bernoulli"), lvlm.kv_heads)


def _timed(subject: subjects.Subject, count: int, few: int, rounds: int, *, tiny: bool, profile: bool) -> dict:
    lvlm, capture, baseline, token = subject.lvlm, subject.capture, subject.baseline, subject.token
    masks = _masks(lvlm, count)
    auto = automatic_batch(capture)
    sizes = {
        "full sequence": _fastest(lambda size: full_sequence(capture, masks[:few], baseline, token, size), [size for size in (2, 4, 8, 16, 32) if size <= few]),
        "expanded cache": _fastest(lambda size: expanded_cache(capture, masks[: 4 * few], baseline, token, size), [4, 8, 16, 32, 64, 128][: 2 if tiny else 6]),
    }
    ours = {f"headflow, batch {size}": size for size in ((8,) if tiny else (16, 64, 256))} | {f"headflow, automatic ({auto})": auto}
    automatic = list(ours)[-1]

    def masked(size: int) -> Callable[[], object]:
        return lambda: headflow.run_masks(capture, masks, baseline=baseline, batch_size=size)

    works: dict[str, Callable[[], object]] = {name: masked(size) for name, size in ours.items()}
    works["headflow, automatic, capture included"] = lambda: headflow.run_masks(lvlm.capture(subject.picture, subjects.QUESTION), masks, baseline=baseline)
    works["expanded cache"] = lambda: expanded_cache(capture, masks[: 4 * few], baseline, token, sizes["expanded cache"])
    works["full sequence"] = lambda: full_sequence(capture, masks[:few], baseline, token, sizes["full sequence"])
    done = {name: {"expanded cache": min(4 * few, count), "full sequence": few}.get(name, count) for name in works}

    products = _products(lvlm, auto * capture.suffix, side=256 if tiny else 8192, place=lvlm.device)
    peaks = {name: _peak(work, lvlm.device) for name, work in works.items()}  # warms everything up, too
    for work, _ in products.values():
        work()
    taken = interleaved(works | {name: work for name, (work, _) in products.items()}, rounds)
    rates = {name: [flops / t / 1e12 for t in taken[name]] for name, (_, flops) in products.items()}
    best = max(rate for values in rates.values() for rate in values)
    table(
        f"{subject.name}: matrix products in {str(lvlm.dtype).removeprefix('torch.')}", ["rows × inner × columns", "TFLOP/s"],
        [[name, spread(values)] for name, values in rates.items()],
    )  # fmt: skip

    needed, same = suffix_flops(subject)
    each = {name: [1e3 * t / done[name] for t in taken[name]] for name in works}
    shares = {name: [needed / (ms * 1e-3) / 1e12 / best for ms in each[name]] for name in works if name.startswith("headflow")}
    ratios = {name: [theirs / own for theirs, own in zip(each[name], each[automatic], strict=True)] for name in works}
    table(
        f"{subject.name}: {count} masks (full sequence {few}, expanded cache {done['expanded cache']}), {needed / 1e9:.4g} GFLOP a mask by definition,"
        f" {same / needed:.1%} of them the same for all masks; aim ≥ {AIM:.0%} of the best product"
        + ("; heads that share a key head are cut together, or the expanded cache could not take part" if lvlm.kv_heads < lvlm.heads else ""),
        ["", "batch", "masks/s", "ms a mask", "share of matrix rate", "times headflow's time", "peak GiB"],
        [
            [
                name, (ours | sizes).get(name, auto), f"{1e3 / np.median(values):.4g}", spread(values), spread(shares[name], 2) if name in shares else "",
                spread(ratios[name]), "" if peaks[name] is None else f"{peaks[name]:.1f}",
            ]
            for name, values in each.items()
        ],
    )  # fmt: skip
    if profile:
        _profile(works[automatic], lvlm.device)
    return {
        "prefix": capture.prefix, "suffix": capture.suffix, "masks": count, "batches": sizes | {"headflow": auto},
        "gflop_per_mask": needed / 1e9, "tflops": {name: float(np.median(values)) for name, values in rates.items()}, "best_product_tflops": best,
        "ms_per_mask": {name: float(np.median(values)) for name, values in each.items()},
        "ratios": {name: _three(values) for name, values in ratios.items()}, "share": {name: _three(values) for name, values in shares.items()},
        "peak_gib": peaks,
    }  # fmt: skip


def _three(values: list[float]) -> list[float]:
    return [float(f(values)) for f in (np.median, min, max)]


def _fastest(work: Callable[[int], object], sizes: list[int]) -> int:
    """The batch size at which ``work`` is fastest, of those that fit into memory; after one call to warm up."""
    taken = {}
    for size in [sizes[0], *sizes]:
        try:
            taken[size] = seconds(lambda size=size: work(size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    if not taken:
        raise HeadflowError(f"out of memory with a batch of {sizes[0]}: the exact 7B shapes need a card with more memory")
    return min(taken, key=taken.get)


def _peak(work: Callable[[], object], place: torch.device) -> float | None:
    """GiB that torch held at most while ``work`` ran, weights included; None without a GPU."""
    if place.type != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(place)
    work()
    return torch.cuda.max_memory_allocated(place) / 2**30


def _products(lvlm: LVLM, rows: int, *, side: int, place: torch.device) -> dict[str, tuple[Callable[[], object], float]]:
    """A large square product and those of the suffix pass: what to call, and its floating-point operations."""
    width, mlp = lvlm.decoder.config.hidden_size, lvlm.decoder.config.intermediate_size
    works = {}
    for m, k, n in ((side, side, side), (rows, width, width), (rows, width, mlp), (rows, mlp, width)):
        a, b = (torch.randn(shape, device=place, dtype=lvlm.dtype) for shape in ((m, k), (n, k)))
        repeats = max(1, int(2e13 // (2 * m * k * n))) if place.type == "cuda" else 1

        def work(a: torch.Tensor = a, b: torch.Tensor = b, repeats: int = repeats) -> None:
            for _ in range(repeats):
                torch.nn.functional.linear(a, b)  # the weight as a layer holds it
            if place.type == "cuda":
                torch.cuda.synchronize(place)

        works[f"{m} × {k} × {n}"] = (work, 2.0 * m * k * n * repeats)
    return works


def _profile(work: Callable[[], object], place: torch.device) -> None:
    on_gpu = place.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=kinds) as profiler:
        work()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=80))
