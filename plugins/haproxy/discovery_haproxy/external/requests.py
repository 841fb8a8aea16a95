"""Reloads that a command requests by a signal, which HAProxy may forget: requested until the configuration serves."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from discovery import ApplyError
from discovery_haproxy.deployment.reloading import wait_until_live
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.program.process import Family, read_master_family

_REQUESTS = 3
"""Requests, at most, in the timeout."""
_SOONEST = 0.3
"""Seconds, at least, before a request is repeated: a master on a busy machine takes up a signal later."""
_RELOADS = 3.0
"""How many times as long as the last reload a request may go unnoticed: the command may have the reload made later."""


class NotLiveError(ApplyError):
    """HAProxy does not serve the new configuration in time."""


class ReloadRequests:
    """Requests reloads of a HAProxy whose stats socket tells which configuration serves.

    HAProxy's master forgets a signal that arrives between the start of the new worker and the end of the last reload.
    The next request follows after a third of the timeout, and sooner if the master shows that it has forgotten the
    first.
    """

    def __init__(self, request: Callable[[], Awaitable[None]], timeout: float) -> None:
        """Store the arguments. `request` requests one reload; `timeout` is in seconds."""
        self._request = request
        self._part = timeout / _REQUESTS
        self._last_seconds: float | None = None
        """From the request to the new configuration, in the last reload with a single request."""

    async def reload(self, control: ControlSocket, generation: str) -> None:
        """Reload HAProxy, and return when `generation` takes new connections.

        Raises NotLiveError after the timeout, and what `request` raises.
        """
        family = await asyncio.to_thread(_family, control)
        await self._request()
        begun = time.monotonic()
        if await self._is_live_unless_forgotten(control, generation, family):
            self._last_seconds = time.monotonic() - begun
            return
        saved = max(0.0, self._part - (time.monotonic() - begun))
        for seconds in (self._part, self._part + saved):
            await self._request()
            try:
                await wait_until_live(control, generation, seconds)
            except ApplyError as error:
                last = error
            else:
                return
        raise NotLiveError(str(last))

    async def _is_live_unless_forgotten(self, control: ControlSocket, generation: str, before: Family | None) -> bool:
        """Wait until `generation` serves; False after a part of the timeout, or sooner if the request is forgotten.

        `before` is HAProxy's family at the request.
        """
        begun = time.monotonic()
        if before is not None and self._last_seconds is not None:
            patience = max(_SOONEST, _RELOADS * self._last_seconds)
            if patience < self._part:
                with suppress(ApplyError):
                    await wait_until_live(control, generation, patience)
                    return True
                after = await asyncio.to_thread(_family, control)
                if after is not None and has_forgotten(before, after):
                    return False
        with suppress(ApplyError):
            await wait_until_live(control, generation, self._part - (time.monotonic() - begun))
            return True
        return False


def has_forgotten(before: Family, after: Family) -> bool:
    """Return True if the master has no new worker, and reads no configuration, some time after a request to reload.

    While it reads one, its arguments name the workers that the new one replaces; HAProxy 2.6 executes itself once more
    afterwards, without them. A HAProxy that keeps the arguments has others after each reload.
    """
    reads = "-sf" in after.master.argv and after.master.argv != before.master.argv
    return after.master.pid == before.master.pid and after.children <= before.children and not reads


def _family(control: ControlSocket) -> Family | None:
    pid = control.listener_pid()
    return None if pid is None else read_master_family(pid)
