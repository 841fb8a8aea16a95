"""The machine-readable status page of Apache httpd (mod_status, `?auto`), and the probe that reads it.

The page: https://httpd.apache.org/docs/2.4/mod/mod_status.html
"""

import asyncio
import re
from dataclasses import dataclass, replace
from typing import Self

from discovery import Backend, Outcome, Verdict
from discovery.probes import HttpProbe, TcpProbe, failing, reason
from discovery.toolkit import Lookup

_NUMBER = re.compile(r"[0-9]{1,9}")
_SCOREBOARD = re.compile(r"[_SRWKDCLGI.]+")
_MAX_WEIGHT = 100
"""The weight of a server without busy workers; 100 steps are finer than the load of a server is steady."""


@dataclass(frozen=True, slots=True)
class Status:
    """The workers of a server: `idle` wait for a request, `busy` serve one, among them the worker of the status page.

    `processes` and `stopping` are the numbers of child processes, and of those that are ending; the event MPM alone
    reports both.
    """

    idle: int
    busy: int
    processes: int | None = None
    stopping: int = 0

    @property
    def is_stopping(self) -> bool:
        """True if the server stops gracefully. A graceful restart ends some of the processes, never all."""
        return self.processes is not None and self.stopping >= self.processes > 0

    @property
    def weight(self) -> int:
        """The percentage of idle workers, at least 1. The worker that served the status page does not count."""
        workers = self.idle + max(self.busy - 1, 0)
        return max(1, round(_MAX_WEIGHT * self.idle / workers)) if workers else 1


def parse_status(page: str) -> Status:
    """Parse a status page. The first of several fields with the same name counts; other fields are ignored.

    Raises ValueError, one line with the reason, if the page does not report idle and busy workers.
    """
    fields: dict[str, str] = {}
    for line in page.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name, value.strip())
    idle, busy = _number(fields, "IdleWorkers"), _number(fields, "BusyWorkers")
    if idle is None or busy is None:
        board = fields.get("Scoreboard", "")
        if not _SCOREBOARD.fullmatch(board):
            raise ValueError(f"not a status page of mod_status: {_why(page)}")
        idle = board.count("_")
        busy = len(board) - idle - board.count(".")
    return Status(idle, busy, _number(fields, "Processes"), _number(fields, "Stopping") or 0)


@dataclass(frozen=True, slots=True)
class StatusProbe:
    """Passes while a worker is idle. Reports draining without an idle worker, and during a graceful stop.

    A server whose workers are all busy cannot serve the page either: a server that accepts connections and has not
    answered after `timeout` seconds is draining, too. With `load` the weight of a passing server follows its idle
    workers.
    """

    page: HttpProbe
    timeout: float = 2.0
    load: bool = False

    def with_lookup(self, lookup: Lookup) -> Self:
        """Return the same probe with `lookup` as resolver of host names."""
        return replace(self, page=self.page.with_lookup(lookup))

    async def __call__(self, backend: Backend) -> Outcome:
        """Fetch the status page and return the outcome. Takes up to twice `timeout`."""
        import aiohttp  # takes longer than the start of most commands

        try:
            async with asyncio.timeout(self.timeout):
                response = await self.page.fetch(backend)
        except TimeoutError:
            return await self._unanswered(backend)
        except (OSError, aiohttp.ClientError) as error:
            return failing(reason(error))
        if response.status != 200:
            return Outcome(
                Verdict.FAILING, f"{self.page.path} returns status {response.status}{_remedy(response.status)}"
            )
        try:
            return evaluate(parse_status(response.body.decode(errors="replace")), load=self.load)
        except ValueError as error:
            return failing(f"{self.page.path}: {error}")

    async def _unanswered(self, backend: Backend) -> Outcome:
        async with asyncio.timeout(self.timeout):
            connects = await TcpProbe(self.page.address, lookup=self.page.lookup)(backend)
        if connects.verdict is not Verdict.PASSING:
            return connects
        return Outcome(
            Verdict.DRAINING, f"no answer within {self.timeout:g} s: all workers are busy, or the server hangs"
        )


def evaluate(status: Status, *, load: bool = False) -> Outcome:
    """Return the outcome of the check for the status of a server."""
    if status.is_stopping:
        return Outcome(Verdict.DRAINING, "the server is stopping gracefully")
    if status.idle == 0:
        return Outcome(Verdict.DRAINING, f"no worker is idle, {status.busy} are busy")
    return Outcome(detail=f"{status.idle} workers are idle", weight=status.weight if load else None)


def _number(fields: dict[str, str], name: str) -> int | None:
    value = fields.get(name, "")
    return int(value) if _NUMBER.fullmatch(value) else None


def _why(page: str) -> str:
    if "<html" in page[:1000].lower():
        return "this is the page for people; add ?auto to the address"
    return "the page has neither IdleWorkers and BusyWorkers nor a Scoreboard"


def _remedy(status: int) -> str:
    if status in (401, 403):
        return ": allow this machine ('Require local' or 'Require ip' in its <Location>)"
    return ": load mod_status, and give the page a <Location> with 'SetHandler server-status'" if status == 404 else ""
