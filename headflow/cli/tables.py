"""Tables on a terminal; into a pipe every row is one whole line without colour."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def table(*columns: str) -> Table:
    """A table with these headings, or with none where they are empty."""
    new = Table(box=SIMPLE_HEAD if any(columns) else None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 1), header_style="bold")
    for column in columns:
        new.add_column(column, overflow="fold", no_wrap=column == "for example")
    return new


def print_table(console: Console, shown: Table) -> None:
    """Print a table; where nobody sees columns, nothing is cut or wrapped."""
    if console.is_terminal:
        console.print(shown)
        return
    width = Measurement.get(console, console.options.update(max_width=1000), shown).maximum
    for line in console.render_lines(shown, console.options.update(width=width), pad=False):
        print("".join(segment.text for segment in line).rstrip())


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count < 1024 else f"{count / 1024:.1f} TiB"


def flops(count: float) -> str:
    """A number of floating-point operations in the unit that suits it."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} EFLOP"
