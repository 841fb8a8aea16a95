"""A reload through the master socket, and the proof that it took place."""

import asyncio
import time

from discovery import ApplyError
from discovery_haproxy.binary import complaint
from discovery_haproxy.control import Control, ControlError

SECONDS = 60.0
"""Seconds that HAProxy may take to load a configuration."""

_ANSWER_SECONDS = 5.0
_POLL = 0.003


async def through_master(control: Control, generation: str | None, timeout: float = SECONDS) -> None:
    """Reload, once, and return when the worker of `generation` (None: a new one) takes the new connections.

    Raises ApplyError if HAProxy says that it failed, after which the old worker goes on, or gives no proof in time;
    ControlError if it cannot be reached.
    """
    deadline = time.monotonic() + timeout
    before = await control.processes(min(timeout, _ANSWER_SECONDS))
    # Up to 2.6 the answer comes before the work; later it tells the outcome.
    answer = await control.once("reload", timeout)
    if answer.startswith("Success=0"):
        reason = complaint(answer) or "its log tells why"
        raise ApplyError(f"HAProxy cannot load the new configuration: {reason}")
    while not answer.startswith("Success=1"):
        try:
            now = await control.processes(max(deadline - time.monotonic(), 0.1))
        except ControlError:
            raise ApplyError(f"HAProxy did not come back from the reload within {timeout:g} s") from None
        if now.reloads != before.reloads:
            if now.failed:
                raise ApplyError("HAProxy cannot load the new configuration: its log tells why")
            break
        if time.monotonic() > deadline:
            raise ApplyError(f"HAProxy did not reload within {timeout:g} s")
        await asyncio.sleep(_POLL)
    if generation is not None:
        await prove(control, generation, max(deadline - time.monotonic(), 1.0))


async def prove(control: Control, generation: str, timeout: float) -> None:
    """Wait until `generation` takes the new connections. Raises ApplyError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    live: str | None = None
    reason = ""
    while time.monotonic() < deadline:
        try:
            live, reason = await control.generation(max(min(1.0, deadline - time.monotonic()), 0.01)), ""
        except ControlError as error:
            reason = str(error)
        if live == generation:
            return
        await asyncio.sleep(_POLL)
    raise ApplyError(f"HAProxy did not take up the new configuration: {reason or f'{live} serves, not {generation}'}")
