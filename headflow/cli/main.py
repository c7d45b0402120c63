"""The command ``headflow``: its subcommands, and mistakes told in one line."""

import argparse
import os
import sys
from collections.abc import Sequence

from headflow import __version__
from headflow.cli import check, models, plan, status
from headflow.errors import HeadflowError

COMMANDS = (check, plan, status, models)
"""Modules with ``add(subcommands)``: it adds a parser whose default ``run`` is called with the parsed arguments.

They are imported whenever the command starts, so what is slow to import (torch, transformers) is imported inside ``run``.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    whole = argparse.ArgumentParser(prog="headflow", description="Which attention heads of a vision-language model carry the picture into the words?")
    whole.add_argument("--version", action="version", version=f"headflow {__version__}")
    subcommands = whole.add_subparsers(title="commands", metavar="command", required=True)
    for module in COMMANDS:
        module.add(subcommands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (default: those that the program was started with).

    Returns:
        0 done, 1 a mistake that the message explains, 130 stopped by Ctrl-C; a misspelt command line exits with 2.
    """
    parsed = parser().parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except HeadflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `headflow models | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
