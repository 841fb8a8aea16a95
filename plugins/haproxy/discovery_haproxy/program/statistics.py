"""HAProxy's statistics of servers: which of them HAProxy's checks find down.

Format: HAProxy's management guide, "show stat", in CSV.
"""

import csv
import sys
from collections.abc import Mapping
from typing import NamedTuple

BACKENDS = "show stat -1 2 -1"
"""Asks for a row of each `backend` section."""
_DOWN = "DOWN"
"""The beginning of the status of a server that is down."""
_QUOTED_CHARACTERS = 100
"""Characters of an unexpected answer in an error message, which is one line."""


class SectionRow(NamedTuple):
    """A `backend` section: its name, its number for further questions, and how many of its servers are up."""

    name: str
    number: int
    up: int


def servers_command(number: int) -> str:
    """Return the question for the servers of the section with this number."""
    return f"show stat {number} 4 -1"


def parse_sections(answer: str) -> list[SectionRow]:
    """Return the sections of the answer to BACKENDS. Raises ValueError for any other text.

    Takes 2 us for a section: the columns up to the last that is read have no quotes.
    """
    names, lines = _table(answer)
    columns = [names.index(each) for each in ("pxname", "iid", "act", "bck")]
    last = max(columns) + 1
    found = []
    for line in lines:
        if line:
            words = line.split(",", last)
            if len(words) < last:
                raise _cut_off(line)
            name, number, active, backup = (words[each] for each in columns)
            found.append(SectionRow(name, int(number), int(active or 0) + int(backup or 0)))
    return found


def parse_down(answer: str, most: int = sys.maxsize) -> dict[str, str]:
    """Return why the servers that a check finds down are so, by their names. Raises ValueError for any other text.

    `most` is the number of such servers that are returned at most: a row of one takes 10 us, of another 0.4 us.

    A server in maintenance, or that drains, is as somebody wants it.
    """
    names, lines = _table(answer)
    rows = csv.reader(line for line in lines if f",{_DOWN}" in line)  # most are up
    found = {}
    for words in rows:
        row = dict(zip(names, words, strict=False))
        if "status" not in row:
            raise _cut_off(",".join(words))
        if row["status"].startswith(_DOWN):
            found[row["svname"]] = _reason(row)
            if len(found) >= most:
                break
    return found


def _cut_off(line: str) -> ValueError:
    """Return the error for a row that ends early, as when a reload ends the worker that answers."""
    return ValueError(f"a row of the answer to 'show stat' is cut off: {line[:_QUOTED_CHARACTERS]!r}")


def _table(answer: str) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and the lines of the rows. Raises ValueError for any other text."""
    head, *lines = answer.strip().splitlines() or [""]
    if not head.startswith("# pxname,"):
        raise ValueError(f"not an answer to 'show stat': {head[:_QUOTED_CHARACTERS]!r}")
    return head.removeprefix("# ").split(","), lines


def _reason(row: Mapping[str, str]) -> str:
    """Return the outcome of the last check: HAProxy's word for it, what the check saw, and since when."""
    told = [row.get("check_status", "").removeprefix("* "), row.get("check_code", ""), row.get("last_chk", "")]
    since = row.get("lastchg", "")
    words = " ".join(dict.fromkeys(filter(None, told))) or "no check has passed"
    return f"HAProxy's check: {words}" + (f", for {since} s" if since else "")
