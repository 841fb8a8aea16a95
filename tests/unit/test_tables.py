"""Tables of commands with names of the greatest length: on a terminal of 80 columns, and where there is no terminal."""

from typing import Any

import pytest

from discovery.admin.status import DaemonStatus
from discovery.admin.statusdocument import status_document
from discovery.cli.history import HEADER, rows
from discovery.cli.screen import change_lines, status_lines
from discovery.cli.table import table_lines
from discovery.cli.top import picture
from discovery.consuming.runner import ConsumerStatus

LONG = "Q" * 250
WIDTH = 80


def change(key: str) -> dict[str, Any]:
    named = [{"mark": "+", "key": key, "text": "10.0.0.1:80"}]
    took = {"concerned": True, "applied_ms": 1.0, "failures": 0}
    told = {
        "time": "2026-01-01T10:00:00.000Z",
        "revision": 41,
        "listing": False,
        "added": 1,
        "changes": named,
        "more": 0,
    }
    return {**told, "consumers": {"haproxy": took, "dns": None}}


CHANGES = [change("web/a"), change(f"web/{LONG}"), change("web/b")]


def registry(_: DaemonStatus) -> dict[str, Any]:
    return {"url": "memory://", "connected": True, "revision": 1, "stale": None, "alarms": []}


def status(*names: str) -> dict[str, Any]:
    return status_document(
        DaemonStatus("memory://", consumers=tuple(ConsumerStatus(each, "p", applied_revision=1) for each in names)),
        registry,
    )


def test_a_long_name_does_not_widen_a_table_beyond_the_terminal() -> None:
    lines = list(table_lines(HEADER, [row for each in CHANGES for row in rows(each)], WIDTH))
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].split() == list(HEADER), "it stays a table"
    assert lines[1].startswith("10:00:00.000  41        + web/a 10.0.0.1:80    ")
    assert "".join(lines).count("Q") == len(LONG), "nothing of the name is lost"


@pytest.mark.parametrize("width", [WIDTH, 40])
def test_the_pictures_of_a_daemon_fit_the_terminal(width: int) -> None:
    named = status("edge", "Z" * 200)
    shown = [list(status_lines(named, width)), list(change_lines({"changes": CHANGES}, width))]
    assert max(len(line) for lines in shown for line in lines) <= width
    assert ["".join(lines).count(letter) for lines, letter in zip(shown, "ZQ", strict=True)] == [200, 250]


def test_top_shows_the_state_beside_a_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    lines = picture({"status": status("edge", "Z" * 200), "history": {"changes": CHANGES}}, on_terminal=True)
    text = "\n".join(lines)
    assert "has applied revision 1" in " ".join(text.split())
    assert text.count("Z") == 200


def test_where_there_is_no_terminal_a_long_name_is_whole_and_widens_its_own_line_alone() -> None:
    lines = list(table_lines(HEADER, [row for each in CHANGES for row in rows(each)], None))
    assert [len(lines), f"+ web/{LONG} 10.0.0.1:80" in lines[2]] == [4, True]
    assert all(len(line) < 150 for line in (lines[0], lines[1], lines[3]))
    assert all(len(line) < 150 for line in status_lines(status("edge", "Z" * 200), None) if "Z" * 200 not in line)
