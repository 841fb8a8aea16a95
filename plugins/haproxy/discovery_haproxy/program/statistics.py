"""HAProxy's statistics of servers: which of them HAProxy's checks find down.

Format: HAProxy's management guide, "show stat", in CSV.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

BACKENDS = "show stat -1 2 -1"
"""Asks for a row of each `backend` section."""


class SectionRow(NamedTuple):
    """A `backend` section: its name, its number for further questions, and how many of its servers are up."""

    name: str
    number: int
    up: int


def servers_command(number: int) -> str:
    """Return the question for the servers of the section with this number."""
    return f"show stat {number} 4 -1"


def parse_sections(answer: str) -> list[SectionRow]:
    """Return the sections of the answer to BACKENDS. Raises ValueError for any other text."""
    return [
        SectionRow(row["pxname"], int(row["iid"]), int(row["act"] or 0) + int(row["bck"] or 0)) for row in _rows(answer)
    ]


def parse_down(answer: str) -> dict[str, str]:
    """Return why the servers that a check finds down are so, by their names. Raises ValueError for any other text.

    A server in maintenance, or that drains, is as somebody wants it.
    """
    return {row["svname"]: _reason(row) for row in _rows(answer) if row["status"].startswith("DOWN")}


def _rows(answer: str) -> Iterator[Mapping[str, str]]:
    lines = answer.strip().splitlines()
    if not lines or not lines[0].startswith("# pxname,"):
        raise ValueError(f"not an answer to 'show stat': {answer.strip()[:100]!r}")
    names: Sequence[str] = lines[0].removeprefix("# ").split(",")
    for row in csv.reader(lines[1:]):
        if len(row) >= len(names) - 1:
            yield dict(zip(names, row, strict=False))


def _reason(row: Mapping[str, str]) -> str:
    """Return the outcome of the last check: HAProxy's word for it, what the check saw, and since when."""
    told = [row.get("check_status", "").removeprefix("* "), row.get("check_code", ""), row.get("last_chk", "")]
    since = row.get("lastchg", "")
    words = " ".join(dict.fromkeys(filter(None, told))) or "no check has passed"
    return f"HAProxy's check: {words}" + (f", for {since} s" if since else "")
