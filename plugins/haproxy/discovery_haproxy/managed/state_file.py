"""The file with the states of HAProxy's servers, which HAProxy reads at each start and at each reload."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from discovery_haproxy.managed.server_states import EMPTY_STATES, without
from discovery_haproxy.runtime_api.planner import ServerKey


class StateFile:
    """The server-state file. No method syncs the disk: after a crash of the machine the states are worthless."""

    def __init__(self, path: Path) -> None:
        """Store the argument."""
        self._path = path

    def write(self, states: str) -> None:
        """Replace the states. Raises OSError."""
        temporary = self._path.with_suffix(".new")
        temporary.touch(0o600)
        temporary.write_text(states)
        temporary.replace(self._path)

    def clear(self) -> None:
        """Remove all states: HAProxy prefers a saved port to the port of the configuration."""
        try:
            self.write(EMPTY_STATES)
        except OSError:  # as on a full disk; HAProxy complains of a missing file, and starts
            with suppress(OSError):
                self._path.unlink()

    def forget(self, servers: Collection[ServerKey]) -> None:
        """Remove the states of these servers, which are about to be changed."""
        try:
            states = self._path.read_text()
            if (kept := without(states, servers)) != states:
                self.write(kept)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError):
            self.clear()
