"""Fifty changes under load: no request fails that the program's own graceful reload does not fail."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from template_driving import driven
from template_load import load
from template_origins import origin
from template_proxies import PROXIES, require

from discovery import Backend
from discovery.testing import free_port
from discovery_template.proxies.consumer import ProxyConsumer

CHANGES = 50
ANSWERS = 20
"""Good answers between two changes, so that requests are in flight during each change."""
ROUNDS = 3
"""Comparisons of changes with reloads, of which one has to show no more failures by changes.

The number of failures differs between reloads: Caddy closes a listening socket, and resets the connections that wait in
the queue of that socket. A change that fails more requests than a reload does so in every round.
"""


@pytest.mark.swap
@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.file_name)
async def test_changes_fail_no_more_requests_than_reloads_of_the_program(
    kind: type[ProxyConsumer[Any]], tmp_path: Path
) -> None:
    require(kind)
    port = free_port()
    with ExitStack() as stack:
        origins = [stack.enter_context(origin(f"o{number}")) for number in range(3)]
        backends = [Backend("web", str(number), "127.0.0.1", each) for number, each in enumerate(origins)]
        async with driven(kind, {"bind": f"127.0.0.1:{port}"}, tmp_path) as driver:
            await driver.apply(*backends)

            async def reload(_: int) -> None:
                await driver.consumer.reload("")

            async def change(number: int) -> None:
                await driver.apply(*(each for at, each in enumerate(backends) if at != number % 3))

            for _ in range(ROUNDS):
                by_reload, by_change = await failures(port, reload), await failures(port, change)
                print(f"{kind.file_name}: reloads fail {dict(by_reload)}, changes fail {dict(by_change)}")
                assert by_change.keys() <= {"ConnectionResetError"}
                if by_change.total() <= by_reload.total():
                    return
    pytest.fail(f"changes fail {dict(by_change)}, and reloads {dict(by_reload)}")


async def failures(port: int, step: Callable[[int], Awaitable[None]]) -> Counter[str]:
    """The failures of requests while `step` is taken again and again."""
    with load(port) as clients:
        for number in range(CHANGES):
            await step(number)
            await asyncio.to_thread(clients.await_more, ANSWERS)
    return clients.failures
