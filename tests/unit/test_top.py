"""The pictures of `discovery top` on a terminal that is smaller than what there is to tell."""

from typing import Any

import pytest

from discovery.admin.status import DaemonStatus
from discovery.admin.statusdocument import status_document
from discovery.cli.top import _print, picture


def registry(_: DaemonStatus) -> dict[str, Any]:
    return {"url": "memory://", "connected": True, "revision": 1, "stale": None, "alarms": []}


def test_a_picture_that_fills_the_terminal_does_not_scroll_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "20")
    status = DaemonStatus("memory://", broken={f"plugin-{number}": "it is broken" for number in range(30)})
    document = {"status": status_document(status, registry), "history": {"changes": []}}
    lines = picture(document, on_terminal=True)
    _print(lines, on_terminal=True, first=True)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 9, "all lines but the last, on which the cursor stays"
    assert all(len(line) <= 20 for line in lines)
    assert len(picture(document, on_terminal=False)) > 30
