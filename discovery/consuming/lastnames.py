"""The last addresses of host names, kept on disk: a restart while no name server answers loses no backend."""

import asyncio
import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.system.asyncio_tools import wait_for_tasks
from discovery.system.files import write_atomically

Found = Mapping[str, tuple[str, ...]]
"""The IP addresses of each host name."""

DEBOUNCE = 1.0
"""Seconds between a change and the writing of the file, so that a burst of changes is written once."""


class LastNames:
    """Keeps the last addresses of host names in a file.

    The file is written a second after a change, off the event loop. Every method is for the thread of the loop.
    """

    def __init__(self, log: FilteringBoundLogger, latest: Callable[[], Found], option: str = "--state-dir") -> None:
        """Keep nothing before `open`.

        `log` gets a warning when the file cannot be read or written. The loop calls `latest` for the addresses to
        write. `option` is the command line's option that chooses the directory of the file, for these warnings.
        """
        self._option = option
        self._log = log
        self._latest = latest
        self._path: Path | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failed: str | None = None

    def open(self, path: Path) -> Found | None:
        """Keep the addresses in the file `path` from now on, and return the addresses that an earlier run kept there.

        None if `path` is open already. Empty if the file is missing or cannot be read.
        """
        if path == self._path:
            return None
        self._path = path
        try:
            document = json.loads(path.read_bytes())
            return {
                str(host): tuple(str(ipaddress.ip_address(each)) for each in addresses)
                for host, addresses in document.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._log.warning("the remembered addresses cannot be read", path=str(path), reason=describe(error))
            return {}

    def changed(self) -> None:
        """Write the file in a second. Cheap: a plugin may report every change."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DEBOUNCE, self._begin)

    async def close(self) -> None:
        """Write at once any change that is not written yet, for at most a second."""
        if self._timer is not None:
            self._begin()
        if self._writing is not None:
            await wait_for_tasks({self._writing}, DEBOUNCE)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._writing is not None and not self._writing.done():
            self.changed()  # a slow disk: once it is done
        elif self._path is not None:
            data = json.dumps({host: list(found) for host, found in self._latest().items()}).encode()
            self._writing = asyncio.create_task(self._write(self._path, data), name="remember names")

    async def _write(self, path: Path, data: bytes) -> None:
        try:
            await asyncio.to_thread(_replace, path, data)
            self._failed = None
        except OSError as error:
            if error.strerror != self._failed:
                self._failed = error.strerror
                reason = f"{error.strerror}; mend that, or choose another directory with {self._option}"
                self._log.warning("the addresses of host names cannot be remembered", path=str(path), reason=reason)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, data, 0o600)
