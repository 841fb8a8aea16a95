"""Proof that a program shows the new state: asked again and again, until it does or the time is up."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from discovery import ApplyError, describe
from discovery_template.options.commands import ProofConfig
from discovery_template.running import commands
from discovery_template.running.requests import request

_FIRST_WAIT = 0.01
"""Seconds until the second attempt: most programs take a few milliseconds."""
_LONGEST_WAIT = 0.5
"""Seconds between attempts at most; each wait is twice the wait before."""
_ANSWER_SECONDS = 5.0
"""Seconds for one answer: a program that hangs is asked again."""


async def until(attempt: Callable[[], Awaitable[str | None]], timeout: float, what: str) -> None:
    """Call `attempt` until it returns None. Raises ApplyError, with what it returned last, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    wait = _FIRST_WAIT
    while (missing := await attempt()) is not None:
        if time.monotonic() >= deadline:
            raise ApplyError(f"{what} within {timeout:g} s: {missing}")
        await asyncio.sleep(min(wait, max(0.0, deadline - time.monotonic())))
        wait = min(_LONGEST_WAIT, 2 * wait)


async def prove(config: ProofConfig, generation: str) -> None:
    """Wait until the program shows the state with this generation. Raises ApplyError after the configured time."""
    values = {"generation": generation}

    async def attempt() -> str | None:
        if config.command is not None:
            command = commands.filled(config.command, values)
            output = await commands.run(command, config.timeout)
            return commands.describe(command[0], output) if output.status else None
        return await _ask(config, values)

    await until(attempt, config.timeout, "the new state is not shown")


async def _ask(config: ProofConfig, values: dict[str, str]) -> str | None:
    (url,) = commands.filled((config.url or "",), values)
    try:
        answer = await request("GET", url, timeout=min(config.timeout, _ANSWER_SECONDS))
    except OSError as error:
        return f"{url} does not answer: {describe(error)}"
    if answer.status != config.status:
        return f"{url} answers {answer.status}, not {config.status}"
    if config.contains is not None:
        (wanted,) = commands.filled((config.contains,), values)
        if wanted not in answer.body:
            return f"the answer of {url} does not contain {wanted!r}"
    return None
