"""Tables: coloured on a terminal, plain aligned lines elsewhere."""

import sys
from collections.abc import Sequence

from discovery.cli.console import result


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool] = ()) -> None:
    """Write rows under a header to stdout; `dim` marks rows of less weight."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for cells in (header, *rows):
            result("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")  # an id that is cut short is of no use
    for number, cells in enumerate(rows):
        # As Text: what came from outside is not markup.
        table.add_row(*(Text(cell) for cell in cells), style="dim" if number < len(dim) and dim[number] else None)
    Console().print(table)
