"""``headflow plan``: what a run with the current params will cost, stage by stage, and what of it is done already."""

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from headflow.cli.cost import Cost, calibrate
from headflow.cli.stage_work import list_work
from headflow.cli.stored import StoreView, bytes_per_record
from headflow.cli.tables import flops, print_table, size, table
from headflow.cli.work import Listed, Work, project
from headflow.errors import HeadflowError
from headflow.params import Params, read_params
from headflow.progress import duration


def add(subcommands: Any) -> None:
    """Add ``plan`` to the subcommands of an argparse parser."""
    text = "tell what a run with the current params costs (work units, FLOPs, time, disk), and what of it is in the store already"
    parser: argparse.ArgumentParser = subcommands.add_parser("plan", help=text, description=f"{text[0].upper()}{text[1:]}. Nothing is written.")
    parser.add_argument("models", nargs="*", metavar="model", help="keys of `models` in the params file (default: all)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file (default: params.yaml)")
    parser.add_argument("--device-map", help="measure the model there (default: the device_map of the model's entry)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure each model, count its work, print what is left.

    Raises:
        HeadflowError: unusable params, or models that cannot be measured; the others are told first.
    """
    params = read_params(arguments.params)
    for key in arguments.models:
        params.model(key)
    project(arguments.params.absolute().parent)
    planned, failed = {}, {}
    for key in dict.fromkeys(arguments.models or params.models):
        try:
            planned[key] = plan(params, key, arguments.device_map)
        except HeadflowError as error:
            failed[key] = str(error)
            continue
        if not arguments.json:
            show(Console(file=sys.stdout, highlight=False), params, key, *planned[key])
    if arguments.json:
        print(json.dumps({key: as_json(*found) for key, found in planned.items()}, indent=2))
    elif planned:
        print(whole(params, planned))
    if failed:
        raise HeadflowError("; ".join(f"model {key!r} cannot be planned: {reason}" for key, reason in failed.items()))


def plan(params: Params, key: str, device_map: str | None = None) -> tuple[Cost, list[Work], str]:
    """What model ``key`` costs here, its work by stages, and why it cannot be looked up in the store (empty if it can).

    Raises:
        HeadflowError: see :func:`headflow.cli.cost.calibrate`; or the store cannot be read.
    """
    with StoreView(Path(params.ablation.store)) as store:  # first, as it is soon told if it cannot be read
        cost, outline = calibrate(params, key, device_map)
        listed = Listed(params, key, outline, device_map and device_map.partition(":")[0])
        return cost, list(list_work(listed, store)), listed.reason


def disk(work: Work) -> float:
    """Bytes that the records which the store lacks will take."""
    return sum(many * bytes_per_record(numbers) for numbers, many in work.sizes.items() if numbers)


def show(console: Console, params: Params, key: str, cost: Cost, works: list[Work], reason: str) -> None:
    """Print the table of one model."""
    shown = table("stage", "work units", "in the store", "masked forwards left", "gradients left", "tokens left", "compute left", "time left", "disk")
    for work in works:
        most, priced = "≤ " if work.most else "", "≤ " if work.bounded else ""
        found = "done" if work.done else f"{work.found_records:,}" if work.known else "not known yet" if work.records else "–"
        shown.add_row(
            work.stage, f"{most}{work.records:,}" if work.records else "–", found, _count(most, work.forwards_left), _count(most, work.gradients_left),
            _count("≤ ", work.tokens_left),
            f"{priced}{flops(cost.flops(work))}" if cost.flops(work) else "–", f"{priced}{duration(cost.seconds(work))}" if cost.flops(work) else "–",
            f"{priced}{size(disk(work))}" if disk(work) else "–",
        )  # fmt: skip
    left_s, whole_s = sum(map(cost.seconds, works)), sum(cost.seconds(work, left=False) for work in works)
    units, found = sum(work.records for work in works), sum(work.found_records for work in works)
    shown.add_row(
        "all", f"{units:,}", f"{found:,}", _count("", sum(work.forwards_left for work in works)), _count("", sum(work.gradients_left for work in works)),
        _count("≤ ", sum(work.tokens_left for work in works)), flops(sum(map(cost.flops, works))), duration(left_s), size(sum(map(disk, works))),
    )  # fmt: skip
    print(f"{key}: {params.model(key).id} on {cost.device}, {_rate(cost)}, calibrated in {cost.took_s:.0f} s")
    print_table(console, shown)
    most = "at most " if any(work.bounded for work in works) else ""
    print(f"{most}about {duration(whole_s)} for the whole run, {duration(left_s)} of it left" + (f"; {_first_words(reason)}" if reason else ""))
    print()


def whole(params: Params, planned: dict[str, tuple[Cost, list[Work], str]]) -> str:
    """Time and disk of all models, and whether the disk has room."""
    path = Path(params.ablation.store)
    left_s = sum(cost.seconds(work) for cost, works, _ in planned.values() for work in works)
    needed = sum(disk(work) for _, works, _ in planned.values() for work in works)
    with StoreView(path) as store:
        held = f"{len(store):,} records, {size(store.size)}" if path.exists() else "not there yet"
    folder = next(parent for parent in (path.absolute().parent, *path.absolute().parent.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    room = f"{size(free)} free" + (": NOT ENOUGH" if needed > free else "")
    most = "at most " if any(work.bounded for _, works, _ in planned.values() for work in works) else ""
    return (
        f"{len(planned)} {'model' if len(planned) == 1 else 'models'}: {most}about {duration(left_s)} of work left on one such device; "
        f"the store {path} ({held}) grows by about {size(needed)} ({room})"
    )


def as_json(cost: Cost, works: list[Work], reason: str) -> dict[str, Any]:
    """The numbers of one model."""
    stages = {
        work.stage: {
            "units": work.records, "units_in_store": work.found_records if work.known else None, "forwards": work.forwards,
            "forwards_left": work.forwards_left, "gradients": work.gradients, "gradients_left": work.gradients_left,
            "tokens_left": work.tokens_left, "upper_bound": work.bounded,
            "flops_left": cost.flops(work), "seconds_left": cost.seconds(work), "bytes_left": disk(work), "flops": cost.flops(work, left=False),
            "seconds": cost.seconds(work, left=False),
        }
        for work in works
    }  # fmt: skip
    return {"cost": asdict(cost), "stages": stages, "note": reason}


def _count(most: str, number: int) -> str:
    return f"{most}{number:,}" if number else "–"


def _rate(cost: Cost) -> str:
    return f"{1 / cost.forward_s:,.0f} masked forwards a second ({flops(cost.forward_flops)} each), {1 / cost.gradient_s:,.0f} gradients a second"


def _first_words(reason: str) -> str:
    """Why the store cannot be asked, in short."""
    return f"what the store holds can be told after extract_features ({reason.split(';')[0]})"
