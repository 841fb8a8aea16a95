"""The servers that HAProxy finds down, read from its statistics again and again, beside everything else.

One question tells how many servers of each section are up; only the servers of a section that lacks some are asked for.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.toolkit import cancel_and_wait
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.statistics import BACKENDS, SectionRow, parse_down, parse_sections, servers_command
from discovery_haproxy.rendering.sections import BackendSection

EVERY = 2.0
"""Seconds between two readings, as between two health checks of the core."""
_SHARE = 50
"""The pause after a reading is so many times the reading: at most 2 % of HAProxy's time and of ours."""
_MOST_PAUSE_SECONDS = 30.0
"""Seconds between two readings at most: a reading may have taken long because of a reload."""
MOST_SERVERS = 20_000
"""Servers of a section of which each is read. 10,000 servers are 3 MB of CSV, which takes HAProxy 42 ms. Its start
takes the square of the number, 0.9 s for 10,000. Of a larger section nothing is read."""
_MOST_DOWN = 1000
"""Servers that are reported as down at most: the core shows no more."""
_ANSWER_SECONDS = 5.0
"""Timeout in seconds for an answer, which a reload delays."""


class _Checked(NamedTuple):
    """A section whose servers have checks, and the number of its servers."""

    section: BackendSection
    servers: int


class DownServers:
    """Reads which servers of backends that accept work are down. Belongs to one event loop."""

    def __init__(
        self, socket: Callable[[], ControlSocket | None], log: FilteringBoundLogger, every: float = EVERY
    ) -> None:
        """Store the arguments; `start` begins. `socket` returns where to ask now, None if nowhere."""
        self._socket = socket
        self._log = log
        self._every = every
        self._sections: tuple[BackendSection, ...] = ()
        self._checked: tuple[tuple[BackendSection, ...], Mapping[str, _Checked]] = (), {}
        """Sections, and those of them by name whose servers have checks, and are not too many."""
        self._task: asyncio.Task[None] | None = None
        self.known: Mapping[str, str] = {}
        """The reasons by the keys of the backends, as of the last reading."""
        self.watched: frozenset[str] = frozenset()
        """The services with a section whose servers the last reading has looked at."""

    def follow(self, sections: tuple[BackendSection, ...]) -> None:
        """Read the servers of these sections from now on, which HAProxy serves. The next reading looks at them."""
        self._sections = sections

    def start(self) -> None:
        """Begin on the running event loop."""
        self._task = asyncio.create_task(self._run(), name="servers that are down")

    async def stop(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)

    async def _run(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                self.known = await self._read()
            except (ControlError, ValueError) as error:
                self._log.debug("the statistics cannot be read now", reason=str(error))  # as during a reload
            pause = min(_SHARE * (time.monotonic() - begun), _MOST_PAUSE_SECONDS)
            await asyncio.sleep(max(self._every, pause))

    async def _read(self) -> dict[str, str]:
        """Return the backends that are down. Raises ControlError or ValueError."""
        socket = self._socket()
        if self._checked[0] is not self._sections:
            self._checked = self._sections, _checked(self._sections)
        sections = self._checked[1]
        if not sections:
            self.watched = frozenset()
            return {}
        if socket is None:  # as during a change: what is down stays so until the next reading
            return dict(self.known)
        found: dict[str, str] = {}
        watched: set[str] = set()
        for row in parse_sections(await socket.statistics(BACKENDS, _ANSWER_SECONDS)):
            checked = sections.get(row.name)
            if checked is None:
                continue
            watched.add(checked.section.service)
            if row.up < checked.servers:
                found |= _by_key(checked.section, await self._down(socket, row))
                if len(found) >= _MOST_DOWN:
                    break
        self.watched = frozenset(watched)
        return found

    async def _down(self, socket: ControlSocket, row: SectionRow) -> dict[str, str]:
        return parse_down(await socket.statistics(servers_command(row.number), _ANSWER_SECONDS), _MOST_DOWN)


def _checked(sections: Iterable[BackendSection]) -> dict[str, _Checked]:
    checked = (_Checked(each, _servers(each)) for each in sections if each.config.check)
    return {each.section.name: each for each in checked if each.servers <= MOST_SERVERS}


def unread(sections: Iterable[BackendSection]) -> dict[str, str]:
    """Return why it is not read which servers of a section are down, by the names of such sections."""
    return {
        each.name: f"its {servers:,} servers are more than {MOST_SERVERS:,}"
        for each in sections
        if each.config.check and (servers := _servers(each)) > MOST_SERVERS
    }


def _servers(section: BackendSection) -> int:
    return sum(len(run.lines.names) for run in section.runs)


def _by_key(section: BackendSection, down: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons by the keys of the backends that accept work. A slot of another backend's time is none."""
    if not down:
        return {}
    return {
        server.record.key: f"{down[server.id]} (backend {section.name})"
        for server in section.backends
        if server.id in down and server.record.accepts_work
    }


def lines_of(sections: Iterable[BackendSection], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the `server` lines of the backends with these keys, each with its section; none for one that has none.

    In a section of very many servers a further line says that it is not read whether the server is down.
    """
    found: dict[str, tuple[str, ...]] = dict.fromkeys(keys, ())
    services = {key.partition("/")[0] for key in keys}
    for section in sections:
        if section.service in services:
            why = unread((section,)).get(section.name)
            not_read = (f"backend {section.name}: whether the server is down is not read: {why}",) if why else ()
            for run in section.runs:
                for server, line in zip(run.servers, run.lines.lines, strict=False):
                    if server.record.key in found:
                        found[server.record.key] += (f"backend {section.name}: {line.strip()}", *not_read)
    return found
