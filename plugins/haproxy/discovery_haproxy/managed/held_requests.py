"""Requests that wait for a backend while HAProxy is reloaded.

A reload leaves them in the old worker, which gets no new backend, checks none, and refuses commands about its servers.
So their next attempt is sent to a relay, which refuses until the new worker has a server.
"""

import asyncio
import csv
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from discovery_haproxy.managed.relay import Relay
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states
from discovery_haproxy.text.server_line import HOLDING_ADDRESS, HOLDING_SERVER

_PAUSE_SECONDS = 0.05
"""Seconds between two looks at the servers: short, since a client waits."""
_SHARE = 10
"""Ratio of a pause to the look before the pause: looks at thousands of servers take longer, and are rarer."""
_MOST_PAUSE_SECONDS = 1.0
"""Seconds between two looks at most: a look may have taken long because of a reload, and clients wait."""
_NAME, _STREAMS = 0, 4
"""Column numbers of a row of `show stat`."""


class _Waiting(NamedTuple):
    """A section in which requests wait, the relay of their next attempts, and the seconds that they may wait."""

    section: str
    relay: Relay
    seconds: float


class HeldRequests:
    """Brings requests that wait in old workers to servers of the new worker."""

    def __init__(self, control: ControlSocket) -> None:
        """Store the argument."""
        self._control = control
        self._prepared: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def before_reload(self, sections: Mapping[str, float]) -> None:
        """Send the next attempts of what waits now to relays. `sections` has the seconds for which requests wait.

        What cannot be prepared waits for its timeout, and is no reason to leave HAProxy without the new configuration.
        """
        if not sections:
            return
        with suppress(ControlError, ValueError, OSError):
            served = usable(parse_states(await self._control.server_states()))
            busy = await self._busy()
            for section in sections.keys() & busy - served.keys():
                relay = Relay()
                self._prepared.append(_Waiting(section, relay, sections[section]))
                await self._send_next_attempts(section, relay.address)

    def after_reload(self) -> None:
        """Open the relays from now on, each as soon as the new worker has a server."""
        prepared, self._prepared = self._prepared, []
        if prepared:
            task = asyncio.create_task(self._open(prepared))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def after_failure(self) -> None:
        """Undo `before_reload`: the worker goes on serving."""
        prepared, self._prepared = self._prepared, []
        for each in prepared:
            each.relay.close()
            with suppress(ControlError):
                await self._send_next_attempts(each.section, HOLDING_ADDRESS)

    async def stop(self) -> None:
        """End the relays, with their connections."""
        prepared, self._prepared = self._prepared, []
        for waiting in prepared:
            waiting.relay.close()
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_next_attempts(self, section: str, address: tuple[str, int]) -> None:
        host, port = address
        await self._control.send(f"@1 set server {section}/{HOLDING_SERVER} addr {host} port {port}")

    async def _busy(self) -> set[str]:
        """Return the sections that have requests or connections. Raises ControlError."""
        answer = await self._control.send("@1 show stat -1 2 -1")
        return {row[_NAME] for row in csv.reader(answer.splitlines()) if row[_STREAMS:] and row[_STREAMS] != "0"}

    async def _open(self, waiting: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            while any(loop.time() - begin < each.seconds for each in waiting):
                asked = loop.time()
                with suppress(ControlError, ValueError):
                    if not (await self._control.processes()).old:
                        return
                    if closed := [each for each in waiting if not each.relay.is_open]:
                        found = usable(parse_states(await self._control.server_states()))
                        for each in closed:
                            if (server := found.get(each.section)) is not None:
                                await each.relay.open(server.address, server.port)
                pause = min(_SHARE * (loop.time() - asked), _MOST_PAUSE_SECONDS)
                await asyncio.sleep(max(_PAUSE_SECONDS, pause))
            for each in waiting:
                await each.relay.finish()
        finally:
            for each in waiting:
                await each.relay.abort()


def usable(live: Mapping[ServerKey, LiveServer]) -> dict[str, LiveServer]:
    """Return for each section the first server that gets requests."""
    found: dict[str, LiveServer] = {}
    for (section, name), server in live.items():
        out = server.removed or server.draining or server.disabled or not server.up
        if name != HOLDING_SERVER and not out and server.weight > 0 and server.address != "-":
            found.setdefault(section, server)
    return found
