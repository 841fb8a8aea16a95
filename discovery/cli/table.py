"""Tables with aligned columns; on a terminal with a bold header, and wrapped to the width of the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from discovery.cli.console import result
from discovery.system.terminal import shows_colours

_GAP = "  "
_LAST_COLUMN = 20
"""Characters. With at least this width the last column is wrapped; else every row becomes a block of lines."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool] = ()) -> None:
    """Write `rows` under `header` to stdout, in aligned columns; `dim` marks the rows that a terminal shows dimmed.

    On a terminal the last column is wrapped to the width. Raises BrokenPipeError if the reader has gone.
    """
    style = _styled if shows_colours(sys.stdout) else _plain
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line, code in _lines(header, rows, dim, width):
        result(style(line, code))


def _lines(
    header: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool], width: int | None
) -> Iterator[tuple[str, str]]:
    """Yield each line with its SGR code; the code is empty for plain text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = sum(widths[:-1]) + len(_GAP) * len(widths[:-1])
    room = None if width is None or left + widths[-1] <= width else width - left
    looks = ["2" if number < len(dim) and dim[number] else "" for number, _ in enumerate(rows)]
    if room is not None and room < _LAST_COLUMN:
        yield from _blocks(header, rows, looks, width or 0)
        return
    for cells, look in zip((header, *rows), ("1", *looks), strict=True):
        first, *more = [cells[-1]] if room is None else textwrap.wrap(cells[-1], room) or [""]
        aligned = _GAP.join(cell.ljust(width) for cell, width in zip((*cells[:-1], first), widths, strict=True))
        yield aligned.rstrip(), look
        for line in more:
            yield " " * left + line, look


def _blocks(
    header: Sequence[str], rows: Sequence[Sequence[str]], looks: Sequence[str], width: int
) -> Iterator[tuple[str, str]]:
    """Yield a block of lines for each row, with a line for each cell that is not empty: name and value."""
    names = max(map(len, header)) + len(_GAP)
    for number, (cells, look) in enumerate(zip(rows, looks, strict=True)):
        if number:
            yield "", ""
        for name, cell in zip(header, cells, strict=True):
            if cell:
                first, *more = textwrap.wrap(cell, max(width - names, _LAST_COLUMN)) or [""]
                yield name.ljust(names) + first, look
                for line in more:
                    yield " " * names + line, look


def _plain(line: str, _: str) -> str:
    return line


def _styled(line: str, code: str) -> str:
    return f"\x1b[{code}m{line}\x1b[0m" if code else line
