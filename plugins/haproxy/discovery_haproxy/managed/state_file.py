"""The file with the states of HAProxy's servers, which HAProxy reads at each start and at each reload."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from discovery_haproxy.managed.server_states import EMPTY_STATES, is_state_of, sections_in, server_of
from discovery_haproxy.runtime_api.planner import ServerKey

_COMMENT = b"#"
"""A line that begins with this is none for HAProxy. Since it is one byte, no reader finds a part of a change."""


class StateFile:
    """The server-state file. No method syncs the disk: after a crash of the machine the states are worthless."""

    def __init__(self, path: Path) -> None:
        """Store the argument."""
        self._path = path
        self._sections: dict[str, slice] | None = None
        """The bytes of each section; None if they are unknown."""

    def write(self, states: str) -> None:
        """Replace the states. Raises OSError."""
        self._sections = None
        data = states.encode()
        temporary = self._path.with_suffix(".new")
        temporary.touch(0o600)
        temporary.write_bytes(data)
        temporary.replace(self._path)
        self._sections = sections_in(data)

    def clear(self) -> None:
        """Remove all states: HAProxy prefers a saved port to the port of the configuration."""
        try:
            self.write(EMPTY_STATES)
        except OSError:  # as on a full disk; HAProxy complains of a missing file, and starts
            with suppress(OSError):
                self._path.unlink()

    def replace(self, servers: Collection[ServerKey], rows: str) -> None:
        """Replace the states of these servers by `rows`."""
        try:
            kept = (row for row, server in self._rows() if server not in servers)
            self.write("".join((EMPTY_STATES, *kept, rows)))
        except (OSError, UnicodeDecodeError):
            self.clear()

    def of(self, servers: Collection[ServerKey]) -> str:
        """Return the states of these servers, as far as they are known."""
        try:
            return "".join((EMPTY_STATES, *(row for row, server in self._rows() if server in servers)))
        except (OSError, UnicodeDecodeError):
            return EMPTY_STATES

    def _rows(self) -> Iterator[tuple[str, ServerKey]]:
        try:
            states = self._path.read_text()
        except FileNotFoundError:
            return
        for row in states.splitlines(keepends=True):
            if (server := server_of(row)) is not None:
                yield row, server

    def forget(self, servers: Collection[ServerKey]) -> None:
        """Remove the states of these servers, which are about to be changed. Costs what their sections cost."""
        try:
            if self._sections is None:  # of an earlier daemon
                self._sections = sections_in(self._path.read_bytes())
            for section, name in servers:
                if (place := self._sections.get(section)) is not None:
                    self._forget(place, section, name)
        except FileNotFoundError:
            return
        except OSError:
            self.clear()

    def add(self, rows: str) -> None:
        """Append rows."""
        self._sections = None
        with suppress(OSError), self._path.open("r+b", buffering=0) as file:  # a file that is missing stays so
            file.seek(0, os.SEEK_END)
            file.write(rows.encode())

    def _forget(self, place: slice, section: str, name: str) -> None:
        with self._path.open("r+b", buffering=0) as file:
            at = place.start
            for row in os.pread(file.fileno(), place.stop - place.start, at).splitlines(keepends=True):
                if is_state_of(row, section, name):
                    os.pwrite(file.fileno(), _COMMENT, at)
                at += len(row)
