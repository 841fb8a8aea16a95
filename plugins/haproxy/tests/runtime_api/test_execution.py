"""What is seen of a change at run time, without HAProxy."""

from collections.abc import Iterator
from itertools import count

import pytest

from discovery_haproxy.runtime_api.checks import HAProxyCheck
from discovery_haproxy.runtime_api.commands import commands
from discovery_haproxy.runtime_api.execution import once_moved
from discovery_haproxy.runtime_api.planner import Move
from discovery_haproxy.text.server_line import parse_server


@pytest.mark.parametrize(
    "answer",
    [
        "IP changed from '10.0.0.1' to '10.0.0.2', port changed from '80' to '81' by 'stats socket command'",
        "no need to change the addr, port changed from '80' to '81'",
        "no need to change the addr, no need to change the port",  # until 2.9
        "nothing changed",  # from 3.0 on
    ],
)
def test_a_server_may_be_at_its_new_address_already(answer: str) -> None:
    server = parse_server("server a 10.0.0.2:81", ())
    assert server is not None
    move, health = commands(Move(("web", "a"), server, HAProxyCheck()), (3, 0), up=True)
    assert health.text == "set server web/a health up"
    assert move.success.fullmatch(f"{answer}\n")
    assert not move.success.fullmatch("Invalid addr '10.0.0.2'\n")


@pytest.mark.parametrize(("version", "looks"), [((2, 8, 25), 0), ((2, 9), 3)])
async def test_addresses_that_come_after_the_answer_are_awaited(version: tuple[int, ...], looks: int) -> None:
    numbers: Iterator[int] = count()

    async def look() -> int:
        return next(numbers)

    assert await once_moved(look, version, lambda found: found == 3) == looks
