"""The pictures of `discovery top` as a real terminal shows them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.cli.top import _print
from discovery.testing import eventually_sync, require_program, within

COLUMNS = 80
"""The width of a terminal of screen to which nobody is attached."""


class Terminal:
    """A terminal of GNU screen, which leaves the cursor on the last character of a full line, as xterm does."""

    def __init__(self, directory: Path) -> None:
        self._screen = [require_program("screen"), "-S", "top"]
        self._copy = directory / "copy"
        (directory / "screens").mkdir(mode=0o700)
        self._environment = os.environ | {"SCREENDIR": str(directory / "screens"), "TERM": "xterm"}

    def show(self, file: Path) -> None:
        """Begin to show the file."""
        self._run("-c", "/dev/null", "-d", "-m", "sh", "-c", 'cat "$0"; exec cat', str(file))

    def shows(self, *lines: str) -> bool:
        """Return True if these lines, and no further ones, are on the terminal."""
        self._run("-p", "0", "-X", "hardcopy", str(self._copy))
        return self._copy.exists() and self._copy.read_text().rstrip("\n").split("\n") == [*lines]

    def close(self) -> None:
        """End it."""
        self._run("-X", "quit")

    def _run(self, *arguments: str) -> None:
        # A command to a terminal that has not begun yet fails.
        line = [*self._screen, *arguments]
        subprocess.run(line, env=self._environment, capture_output=True, check=False, timeout=within(30))


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal that is closed after the test."""
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_a_line_as_wide_as_the_terminal_is_whole_and_a_shorter_one_clears_the_former(
    terminal: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = "x" * (COLUMNS - 1) + "y"
    _print([full, full, full], on_terminal=True, first=True)
    _print([full, "short"], on_terminal=True, first=False)
    shown = tmp_path / "shown"
    shown.write_text(capsys.readouterr().out)
    terminal.show(shown)
    eventually_sync(lambda: terminal.shows(full, "short"), timeout=30)
