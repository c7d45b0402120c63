"""``headflow status``: how far a run has come, from what it has kept; the run may be going on, finished or dead."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from headflow.cli.stage_work import list_work
from headflow.cli.stored import StoreView, writers
from headflow.cli.tables import print_table, size, table
from headflow.cli.work import Listed, Work, project
from headflow.errors import HeadflowError
from headflow.params import Params, read_params
from headflow.progress import Known, duration, read_journals


def add(subcommands: Any) -> None:
    """Add ``status`` to the subcommands of an argparse parser."""
    text = "tell how far a run has come, while it goes on or after it died"
    parser: argparse.ArgumentParser = subcommands.add_parser(
        "status", help=text, description=f"{text.capitalize()}. Reads the result store and what lies beside it; loads no model and disturbs no run."
    )
    parser.add_argument("models", nargs="*", metavar="model", help="keys of `models` in the params file (default: all)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file (default: params.yaml)")
    parser.add_argument("--store", type=Path, help="the result store (default: ablation.store of the params)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="kind of device that the run is on (default: the one that this machine would take)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print how the store and its runs stand.

    Raises:
        HeadflowError: unusable params, or a file that is no store.
    """
    params = read_params(arguments.params)
    for key in arguments.models:
        params.model(key)
    path = arguments.store or Path(params.ablation.store)
    open_in = writers(path)  # before this process opens it
    keys = list(dict.fromkeys(arguments.models or params.models))
    project(arguments.params.absolute().parent)
    with StoreView(path) as store:
        works = {key: units(params, key, store, arguments.device) for key in keys}
        # After what takes long, so that all that is told is of one moment.
        facts = {"store": str(path), "exists": path.exists(), "records": len(store), "bytes": store.size, "written": store.written, "open_in": open_in}
    journals = read_journals(path)
    if arguments.json:
        running = [asdict(known) | {"alive": alive, "left_s": known.left_s if alive else None} for known, alive in journals]
        counted = {
            key: [{"stage": w.stage, "units": w.records, "found": w.found_records if w.known else None, "upper_bound": w.most} for w in found]
            if isinstance(found, list) else {"note": found}
            for key, found in works.items()
        }  # fmt: skip
        print(json.dumps({**facts, "models": counted, "runs": running}, indent=2))
        return
    console = Console(file=sys.stdout, highlight=False)
    print(store_line(facts, any(alive for _, alive in journals)))
    for key, found in works.items():
        print()
        show(console, key, found, [one for one in journals if one[0].model == key])
    others = [one for one in journals if one[0].model not in keys and not one[0].model]
    if others:
        print()
        print_table(console, runs_table(others))


def units(params: Params, key: str, store: StoreView, device: str | None) -> list[Work] | str:
    """The work of model ``key`` and what of it is in the store; or why that cannot be told."""
    try:
        return [work for work in list_work(Listed(params, key, None, device), store) if work.records]
    except HeadflowError as error:
        return f"its units cannot be listed yet: {error}"


def store_line(facts: dict[str, Any], running: bool) -> str:
    """What is known of the store as a whole."""
    if not facts["exists"]:
        return f"{facts['store']}: not there yet; no run has kept anything"
    line = f"{facts['store']}: {facts['records']:,} records, {size(facts['bytes'])}, last written {ago(time.time() - facts['written'])}"
    if facts["open_in"]:
        return f"{line}; open in process {', '.join(map(str, facts['open_in']))}"
    return line if running else f"{line}; no process of this machine has it open"


def show(console: Console, key: str, found: list[Work] | str, journals: list[tuple[Known, bool]]) -> None:
    """Print the units and the runs of one model."""
    if isinstance(found, str):
        print(f"{key}: {found}")
    else:
        shown = table(key, "work units asked for", "in the store", "")
        for work in found:
            most = "at most " if work.most else ""
            share = f"{work.found_records / work.records:.0%}" if work.known and not work.most else ""
            shown.add_row(work.stage, f"{most}{work.records:,}", f"{work.found_records:,}" if work.known else "not known: hangs on results", share)
        print_table(console, shown)
    if journals:
        print_table(console, runs_table(journals))


def runs_table(journals: list[tuple[Known, bool]]) -> Any:
    """What each piece of work last said."""
    shown = table("work", "done", "rate", "state", "left")
    for known, alive in journals:
        of = f"{known.done:,}/{known.total:,} {known.unit}"
        shown.add_row(plain(known.title), plain(of), plain(f"{known.rate:.3g} {known.unit}/s") if known.rate else "–", state(known, alive), left(known, alive))
    return shown


def state(known: Known, alive: bool) -> str:
    """Whether it goes on, and since when not."""
    when = ago(time.time() - known.updated)
    if alive:
        return f"running in process {known.pid} on {plain(known.host)}, last heard of {when}"
    if known.state == "finished":
        return f"finished {when}"
    if known.state == "stopped":
        return f"stopped {when}; run the same command to continue"
    return f"died (process {known.pid} on {plain(known.host)}), last heard of {when}; run the same command to continue"


def left(known: Known, alive: bool) -> str:
    """Time that the rest takes, if it goes on."""
    return duration(known.left_s) if alive and known.left_s is not None else "–"


def ago(seconds: float) -> str:
    """A time in the past; clocks of two machines may differ."""
    return "now" if seconds < 2 else f"{duration(seconds)} ago"


def plain(text: str) -> str:
    """Text from a file as it may be shown on a terminal: no control characters, no markup."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace("[", r"\[")
