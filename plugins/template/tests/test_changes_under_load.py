"""Fifty changes under load: no request fails that the program's own graceful reload does not fail."""

import asyncio
from collections import Counter
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
"""Good answers between two changes, so that requests are in flight at each."""
BY_CHANCE = 3
"""Failures by which two runs of equal reloads differ: a program that closes a listening socket of its own resets the
connections that wait there (Caddy, on a busy machine)."""


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
            by_reload = Counter[str]()
            with load(port) as alone:
                for _ in range(CHANGES):
                    await driver.consumer.reload("")
                    await asyncio.to_thread(alone.await_more, ANSWERS)
                by_reload = alone.failures
            with load(port) as changed:
                for number in range(CHANGES):
                    await driver.apply(*(each for at, each in enumerate(backends) if at != number % 3))
                    await asyncio.to_thread(changed.await_more, ANSWERS)
    print(f"{kind.file_name}: reloads {alone.good} answers {dict(by_reload)}", end=", ")
    print(f"changes {changed.good} answers {dict(changed.failures)}")
    assert changed.failures.total() <= by_reload.total() + BY_CHANCE
