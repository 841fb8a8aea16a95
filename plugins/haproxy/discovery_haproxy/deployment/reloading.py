"""Reload of HAProxy through the master socket, and the proof that the new configuration serves."""

import asyncio
import time

from discovery import ApplyError
from discovery_haproxy.deployment.target import RefusedError
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.program.binary import first_alert
from discovery_haproxy.program.control_socket import ControlError, ControlSocket

RELOAD_SECONDS = 60.0
"""Seconds that HAProxy may take to load a configuration: a hundred times what 10,000 backends take."""

_POLL_SECONDS = 0.003
"""Seconds between two questions during the reload: short, since they delay each change."""
_POLL_ANSWER_SECONDS = 1.0
"""Timeout in seconds for one of these answers; a new worker answers as soon as it runs."""
_MINIMUM_SECONDS = 0.1
"""Least timeout in seconds for an answer that is expected near the deadline."""
_PROOF_SECONDS = 1.0
"""Least time in seconds for the proof after a reload that took all of its time."""


async def reload_through_master(
    control: ControlSocket, generation: str | None, timeout: float = RELOAD_SECONDS, limits: Limits = LIMITS
) -> None:
    """Reload HAProxy, and return when the worker of `generation` takes new connections. None means any new worker.

    A HAProxy that does not answer within `limits.answer` is not reloaded.

    Raises RefusedError if HAProxy reports a failure (the old worker then goes on serving), ApplyError if the proof is
    missing after `timeout` seconds, and ControlError if HAProxy cannot be reached.
    """
    deadline = time.monotonic() + timeout
    before = await control.processes(min(timeout, limits.answer))
    # HAProxy 2.6 answers before the reload; later versions answer after the reload, with the outcome.
    answer = await control.send_once("reload", timeout)
    if answer.startswith("Success=0"):
        reason = first_alert(answer) or "the log of HAProxy has the reason"
        raise RefusedError(f"HAProxy cannot load the new configuration: {reason}")
    while not answer.startswith("Success=1"):
        try:
            now = await control.processes(max(deadline - time.monotonic(), _MINIMUM_SECONDS))
        except ControlError:
            raise ApplyError(f"HAProxy did not come back from the reload within {timeout:g} s") from None
        if now.reloads != before.reloads:
            if now.failed:
                raise RefusedError("HAProxy cannot load the new configuration: the log of HAProxy has the reason")
            break
        if time.monotonic() > deadline:
            raise ApplyError(f"HAProxy did not reload within {timeout:g} s")
        await asyncio.sleep(_POLL_SECONDS)
    if generation is not None:
        await wait_until_live(control, generation, max(deadline - time.monotonic(), _PROOF_SECONDS))


async def wait_until_live(control: ControlSocket, generation: str, timeout: float) -> None:
    """Wait until `generation` takes new connections. Raises ApplyError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    live: str | None = None
    reason = ""
    while time.monotonic() < deadline:
        try:
            remaining = max(deadline - time.monotonic(), _MINIMUM_SECONDS)
            live, reason = await control.live_generation(min(_POLL_ANSWER_SECONDS, remaining)), ""
        except ControlError as error:
            reason = str(error)
        if live == generation:
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise ApplyError(f"HAProxy did not take up the new configuration: {reason or f'{live} serves, not {generation}'}")
