"""Tables for people: slim, and never a number cut short; where the terminal is narrow, lines wrap as it likes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console

_WIDEST: Final = 1000


def slim_table(title: str, columns: Collection[str], *, left: Collection[str] = ()) -> Table:
    """A table whose columns stand right, as numbers do, but those named in `left`."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def show_table(console: Console, table: Table) -> None:
    """Print it as wide as it is, and its title, which would be broken to the table's width, on a line of its own."""
    if table.title:
        console.print(table.title, style="table.title", markup=False, soft_wrap=True)
        table.title = None
    wide = console.options.update(max_width=_WIDEST)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table, crop=False)
