"""Tables with aligned columns; on a terminal with a bold header, and wrapped to the width of the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from discovery.cli.console import result
from discovery.system.terminal import shows_colours

_GAP = "  "
_LEAST_COLUMN = 20
"""Characters. With at least this width a long column is wrapped; else every row becomes a block of lines."""
_PLAIN_COLUMN = 60
"""Characters. Where no terminal sets a width, a longer cell widens its own line, and not the whole column."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool] = ()) -> None:
    """Write `rows` under `header` to stdout, in aligned columns; `dim` marks the rows that a terminal shows dimmed.

    On a terminal the columns are wrapped to the width. Raises BrokenPipeError if the reader has gone.
    """
    style = _styled if shows_colours(sys.stdout) else _plain
    for line, code in _lines(header, rows, dim, terminal_width()):
        result(style(line, code))


def terminal_width() -> int | None:
    """Return the number of columns of the terminal that stdout is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield the lines of a table, none of them wider than `width`. Without a width every row is one line."""
    for line, _ in _lines(header, rows, (), width):
        yield line


def _lines(
    header: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool], width: int | None
) -> Iterator[tuple[str, str]]:
    """Yield each line with its SGR code; the code is empty for plain text."""
    widths = _widths([max(map(len, column)) for column in zip(header, *rows, strict=True)], width)
    looks = ["2" if number < len(dim) and dim[number] else "" for number, _ in enumerate(rows)]
    if widths is None:
        yield from _blocks(header, rows, looks, width or 0)
        return
    for cells, look in zip((header, *rows), ("1", *looks), strict=True):
        wrapped = [_wrapped(cell, None if width is None else most) for cell, most in zip(cells, widths, strict=True)]
        for line in zip_longest(*wrapped, fillvalue=""):
            yield _GAP.join(cell.ljust(most) for cell, most in zip(line, widths, strict=True)).rstrip(), look


def _widths(natural: Sequence[int], width: int | None) -> Sequence[int] | None:
    """Return the width of each column, whose longest cell has the `natural` one; None if the table cannot fit.

    The last column gives way first, for prose and labels stand there, and then the widest ones.
    """
    if width is None:
        return [min(each, _PLAIN_COLUMN) for each in natural]
    room = width - len(_GAP) * (len(natural) - 1)
    if sum(natural) <= room:
        return natural
    if (last := room - sum(natural[:-1])) >= _LEAST_COLUMN:
        return [*natural[:-1], last]
    fitting = (most for most in range(room, _LEAST_COLUMN - 1, -1) if sum(min(each, most) for each in natural) <= room)
    most = next(fitting, None)
    return None if most is None else [min(each, most) for each in natural]


def _wrapped(cell: str, most: int | None) -> Sequence[str]:
    return [cell] if most is None or len(cell) <= most else textwrap.wrap(cell, most)


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
                first, *more = textwrap.wrap(cell, max(width - names, _LEAST_COLUMN)) or [""]
                yield name.ljust(names) + first, look
                for line in more:
                    yield " " * names + line, look


def _plain(line: str, _: str) -> str:
    return line


def _styled(line: str, code: str) -> str:
    return f"\x1b[{code}m{line}\x1b[0m" if code else line
