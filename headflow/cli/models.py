"""``headflow models``: the tested families and what each needs."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from rich.console import Console

from headflow.cli.tables import print_table, table
from headflow.models.families import COUNTS, ENDING, FAMILIES, MODES

LAST = (
    "Any other image-text-to-text model of transformers may work too: it is checked before it is run, and refused with the reason if it cannot be. "
    "Ready entries for params.yaml are in docs/catalogue.yaml."
)


def add(subcommands: Any) -> None:
    """Add ``models`` to the subcommands of an argparse parser."""
    text = "list the tested model families and what each needs"
    parser: argparse.ArgumentParser = subcommands.add_parser("models", help=text, description=text.capitalize())
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the families."""
    if arguments.json:
        print(json.dumps([dataclasses.asdict(family) for family in FAMILIES], indent=2, ensure_ascii=False))
    else:
        show(Console(file=sys.stdout, highlight=False))


def show(console: Console) -> None:
    """What each family is, what it needs, and what the words mean; into a pipe every row is one whole line without colour."""
    what = table("family", "class", "text model", "prefix", "image tokens")
    needs = table("family", "for example", "what to know")
    words = table("", "")
    for family in FAMILIES:
        what.add_row(family.name, family.model_class.removesuffix(ENDING), family.text_model, family.mode, family.tokens)
        needs.add_row(family.name, family.example, family.needs)
    words.add_row("class", f"its name in transformers goes on with {ENDING}")
    for word, meaning in (MODES | COUNTS).items():
        words.add_row(word, meaning)
    for shown in (what, needs, words):
        print_table(console, shown)
    console.print(LAST) if console.is_terminal else print(LAST)
