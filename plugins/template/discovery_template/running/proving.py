"""Proof that a program shows the new state: asked again and again, until it does or the time is up."""

from collections.abc import Mapping

from discovery import describe
from discovery.toolkit import run_command, wait_for_proof
from discovery_template.options.commands import ProofConfig
from discovery_template.running.commands import filled
from discovery_template.running.requests import request

_ANSWER_SECONDS = 5.0
"""Seconds for one answer: a program that hangs is asked again."""


async def prove(config: ProofConfig, values: Mapping[str, str]) -> None:
    """Wait until the program shows the new state. Raises ApplyError after the configured time.

    `values`, among them the generation, are replaced in the command and in the request.
    """

    async def attempt() -> str | None:
        if config.command is not None:
            command = filled(config.command, values)
            output = await run_command(command, config.timeout)
            return output.describe(command[0]) if output.status else None
        return await _ask(config, values)

    await wait_for_proof(attempt, config.timeout, "the new state is not shown")


async def _ask(config: ProofConfig, values: Mapping[str, str]) -> str | None:
    (url,) = filled((config.url or "",), values)
    try:
        answer = await request("GET", url, timeout=min(config.timeout, _ANSWER_SECONDS))
    except OSError as error:
        return f"{url} does not answer: {describe(error)}"
    if answer.status != config.status:
        return f"{url} answers {answer.status}, not {config.status}"
    if config.contains is not None:
        (wanted,) = filled((config.contains,), values)
        if wanted not in answer.body:
            return f"the answer of {url} does not contain {wanted!r}"
    return None
