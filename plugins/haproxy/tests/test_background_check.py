"""When the check behind changes runs: for the newest configuration, one at a time, and again after a refusal."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from structlog.testing import LogCapture

from discovery import Snapshot
from discovery.testing import eventually
from discovery_haproxy.deployment.background_check import BackgroundCheck
from discovery_haproxy.limits import Limits
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render

NO_DELAYS = Limits(check_delay=0.0, check_repeat=0.0, check_pause_share=0.0)


class WaitingChecker:
    """A check that goes on when it is told to, with the given faults."""

    name = "haproxy"
    version = (2, 6)

    def __init__(self) -> None:
        self.generations: list[str] = []
        self.running = 0
        self.go_on = asyncio.Semaphore(0)
        self.alerts: tuple[str, ...] = ()
        self.error: OSError | None = None

    async def check(self, rendered: Rendered) -> None:
        """Accept the configuration."""

    async def faults(self, rendered: Rendered) -> tuple[str, ...]:
        """Return the faults when told to."""
        assert self.running == 0
        self.running += 1
        self.generations.append(rendered.generation)
        await self.go_on.acquire()
        self.running -= 1
        if self.error is not None:
            raise self.error
        return self.alerts


@asynccontextmanager
async def running(log: LogCapture) -> AsyncIterator[BackgroundCheck]:
    """Return a background check, which ends with the block."""
    found = BackgroundCheck(structlog.wrap_logger(None, processors=[log]), NO_DELAYS)
    yield found
    await found.stop()


def configurations(count: int) -> list[Rendered]:
    """Return different configurations."""
    return [
        render(HAProxyConfig.model_validate({"maxconn": 100 + number}), Snapshot.of(1, []), Runtime())
        for number in range(count)
    ]


async def test_the_newest_configuration_is_checked_one_at_a_time() -> None:
    checker = WaitingChecker()
    first, *more = configurations(5)
    async with running(LogCapture()) as behind:
        for rendered in (first, *more[:2]):
            behind.begin(rendered, checker)
        await eventually(lambda: checker.running, "a check")
        for rendered in more[2:]:
            behind.begin(rendered, checker)
        checker.go_on.release()
        await eventually(lambda: len(checker.generations) == 2, "another check")
        checker.go_on.release()
        await eventually(lambda: checker.running == 0, "the checks to end")
        assert checker.generations == [more[1].generation, more[3].generation]
        assert behind.refusal is None


async def test_a_refusal_is_told_once_and_checked_again_until_it_is_over() -> None:
    checker, log = WaitingChecker(), LogCapture()
    checker.alerts = ("no such file",)
    async with running(log) as behind:
        behind.begin(configurations(1)[0], checker)
        await eventually(lambda: len(checker.generations) == 1, "a check")
        for count in (2, 3):
            checker.go_on.release()
            await eventually(lambda count=count: len(checker.generations) == count, "the check to be repeated")
        assert behind.refusal is not None
        assert "no such file" in behind.summary
        checker.alerts = ()
        checker.go_on.release()
        await eventually(lambda: behind.refusal is None, "the refusal to be over")
    assert [each["log_level"] for each in log.entries] == ["warning", "info"]


async def test_a_check_that_is_killed_refuses_nothing() -> None:
    checker, log = WaitingChecker(), LogCapture()
    checker.alerts = ("killed: Killed",)  # as where memory is short, of which a check takes as much as a HAProxy
    async with running(log) as behind:
        behind.begin(configurations(1)[0], checker)
        checker.go_on.release()
        await eventually(lambda: bool(log.entries), "the check in the log")
        assert behind.refusal is None
        assert "killed" in str(log.entries)


async def test_a_check_that_cannot_be_run_is_told_and_the_next_change_is_checked() -> None:
    log, checker, (first, second) = LogCapture(), WaitingChecker(), configurations(2)
    async with running(log) as check:
        checker.error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        check.begin(first, checker)
        checker.go_on.release()
        await eventually(lambda: log.entries, "the reason to be told")
        assert "Too many open files" in log.entries[0]["reason"]
        checker.error = None
        check.begin(second, checker)
        checker.go_on.release()
        await eventually(lambda: checker.generations == [first.generation, second.generation])
        assert check.refusal is None


async def test_the_result_for_a_configuration_that_was_replaced_means_nothing() -> None:
    checker = WaitingChecker()
    checker.alerts = ("no such file",)
    async with running(LogCapture()) as behind:
        behind.begin(configurations(1)[0], checker)
        await eventually(lambda: checker.running, "a check")
        behind.settle()  # HAProxy was reloaded meanwhile
        checker.go_on.release()
        await eventually(lambda: checker.running == 0, "the check to end")
    assert behind.refusal is None
