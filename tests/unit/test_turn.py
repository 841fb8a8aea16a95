"""The daemons of a run directory start one after the other, and one successor at a time."""

import asyncio
from pathlib import Path

import pytest
import structlog

from discovery.daemon.turn import StartTurn
from discovery.errors import CannotStartError
from discovery.testing import within

LOG = structlog.get_logger()


def turn(directory: Path) -> StartTurn:
    return StartTurn(directory / "daemon.sock", LOG)


async def take(turn: StartTurn, *, replace: bool = False) -> None:
    await turn.take(replace=replace, stopping=lambda: False)


async def test_a_second_successor_is_refused_until_the_first_has_begun(tmp_path: Path) -> None:
    first, second = turn(tmp_path), turn(tmp_path)
    await take(first, replace=True)
    with pytest.raises(CannotStartError, match=r"process \d+ is taking over already"):
        await take(second, replace=True)
    first.release()
    await take(second, replace=True)
    second.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("replace", [False, True])
async def test_a_daemon_waits_for_one_that_starts(tmp_path: Path, replace: bool) -> None:
    first, second = turn(tmp_path), turn(tmp_path)
    await take(first)
    waiting = asyncio.create_task(take(second, replace=replace))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    first.release()
    await asyncio.wait_for(waiting, within(5))
    second.release()


async def test_a_daemon_that_is_told_to_stop_does_not_wait(tmp_path: Path) -> None:
    first, second = turn(tmp_path), turn(tmp_path)
    await take(first)
    stop = asyncio.Event()
    waiting = asyncio.create_task(second.take(replace=False, stopping=stop.is_set))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(waiting, within(5))
    first.release()


async def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "daemon.start.lock").mkdir()
    with pytest.raises(CannotStartError, match="cannot be taken"):
        await StartTurn(tmp_path / "daemon.sock", LOG)._lock("start", "the start of a daemon", 0.0, lambda: False)
