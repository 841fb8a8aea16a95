"""The connection to the stats socket: batches, answers and lost connections."""

import os
import re
import resource
from pathlib import Path

import pytest
from stats_socket import listening

from discovery_haproxy.limits import Limits
from discovery_haproxy.runtime_api.commands import Command
from discovery_haproxy.runtime_api.connection import LostConnectionError, RuntimeApiError, connect

SILENCE = re.compile(r"\s*")
GROUPS = [(Command(f"one {number}", SILENCE), Command(f"two {number}", SILENCE)) for number in range(100)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1e9, [8, 16, 32, 64, 80]), (0.0, [8, 4, *[2] * 94])],
    ids=["fast", "slow"],
)
async def test_batches_grow_while_answers_are_fast_and_keep_groups_together(
    path: Path, seconds: float, expected: list[int]
) -> None:
    limits = Limits(fast_batch=seconds, slow_batch=seconds)
    async with listening(path) as socket, connect(path, limits=limits) as opened:
        await opened.execute(GROUPS)
        assert socket.commands == [command.text for group in GROUPS for command in group]
        assert socket.sizes == expected


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.1, 8), (1.0, 2), (100.0, 2)], ids=["cheap", "dear", "one group at least"]
)
async def test_the_first_batch_is_small_where_commands_are_dear(path: Path, seconds: float, first: int) -> None:
    async with listening(path) as socket, connect(path) as opened:
        await opened.execute(GROUPS, seconds)
        assert socket.sizes[0] == first


async def test_batches_of_cheap_commands_stay_large_on_a_busy_machine(
    path: Path,
) -> None:
    limits = Limits(fast_batch=0.0, slow_batch=1e-6)  # each batch takes longer
    async with listening(path) as socket, connect(path, limits=limits) as opened:
        await opened.execute(GROUPS, 200 * 1e-6 / (4 * 10))
        assert set(socket.sizes[1:-1]) == {10}


async def test_another_answer_than_expected_ends_the_commands(path: Path) -> None:
    async with listening(path) as socket, connect(path) as opened:
        socket.answers["two 3"] = "No such server."
        with pytest.raises(RuntimeApiError, match="HAProxy refuses two 3: No such server."):
            await opened.execute(GROUPS)
        assert len(socket.commands) < 20


async def test_a_lost_connection_tells_what_is_done(path: Path) -> None:
    limits = Limits(slow_batch=1e9)  # a busy machine makes no batch smaller
    async with listening(path) as socket, connect(path, limits=limits) as opened:
        socket.ends_at = "one 6"
        with pytest.raises(LostConnectionError) as lost:
            await opened.execute(GROUPS)
        assert lost.value.done == 4


async def test_commands_that_the_kernel_does_not_take_at_once_are_sent_as_haproxy_reads(path: Path) -> None:
    async with listening(path) as socket, connect(path) as opened:
        commands = [f"{'x' * 1000} {number}" for number in range(2000)]
        assert await opened.ask_all(commands) == [""] * 2000
        assert socket.commands == commands


async def test_without_a_free_descriptor_there_is_no_connection(path: Path) -> None:
    async with listening(path):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(RuntimeApiError, match="Too many open files"):
                async with connect(path):
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
