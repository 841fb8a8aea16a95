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
_MOST_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class Status:
    """How many workers serve a request (the one that served the page among them) and how many wait for one.

    `processes` and `stopping` are told by the event MPM alone: how many children there are, and how many of them end.
    """

    idle: int
    busy: int
    processes: int | None = None
    stopping: int = 0

    @property
    def ends(self) -> bool:
        """Whether it is stopping gracefully. In a graceful restart some of its processes end, never all of them."""
        return self.processes is not None and self.stopping >= self.processes > 0

    @property
    def weight(self) -> int:
        """The idle workers' share, from 1 to 100; the worker that served the page counts as neither."""
        workers = self.idle + max(self.busy - 1, 0)
        return max(1, round(_MOST_WEIGHT * self.idle / workers)) if workers else 1


def parse_status(page: str) -> Status:
    """Read a page. Fields that are not needed may be missing or odd; of one that comes twice the first counts.

    Raises ValueError, with the reason in a line, if it does not tell how many workers are idle and busy.
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
            raise ValueError(f"this is no status page of mod_status: {_why(page)}")
        idle = board.count("_")
        busy = len(board) - idle - board.count(".")
    return Status(idle, busy, _number(fields, "Processes"), _number(fields, "Stopping") or 0)


@dataclass(frozen=True, slots=True)
class StatusProbe:
    """Passes while a worker is idle; is draining without one, and while the server stops gracefully.

    A server whose workers are all busy cannot serve the page either: one that takes connections, but has not answered
    after `timeout` seconds, is draining, too. With `load` a passing server's weight follows its idle workers.
    """

    page: HttpProbe
    timeout: float = 2.0
    load: bool = False

    def with_lookup(self, lookup: Lookup) -> Self:
        """The same probe, which looks host names up by `lookup`."""
        return replace(self, page=self.page.with_lookup(lookup))

    async def __call__(self, backend: Backend) -> Outcome:
        """Read the page, and judge it. Takes up to twice `timeout`."""
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
                Verdict.FAILING, f"{self.page.path} is answered {response.status}{_way_out(response.status)}"
            )
        try:
            return judge(parse_status(response.body.decode(errors="replace")), load=self.load)
        except ValueError as error:
            return failing(f"{self.page.path}: {error}")

    async def _unanswered(self, backend: Backend) -> Outcome:
        async with asyncio.timeout(self.timeout):
            connects = await TcpProbe(self.page.address, lookup=self.page.lookup)(backend)
        if connects.verdict is not Verdict.PASSING:
            return connects
        return Outcome(Verdict.DRAINING, f"no answer within {self.timeout:g} s: every worker is busy, or it hangs")


def judge(status: Status, *, load: bool = False) -> Outcome:
    """What a page means for the backend."""
    if status.ends:
        return Outcome(Verdict.DRAINING, "it is stopping gracefully")
    if status.idle == 0:
        return Outcome(Verdict.DRAINING, f"no worker is idle, {status.busy} are busy")
    return Outcome(detail=f"{status.idle} workers are idle", weight=status.weight if load else None)


def _number(fields: dict[str, str], name: str) -> int | None:
    value = fields.get(name, "")
    return int(value) if _NUMBER.fullmatch(value) else None


def _why(page: str) -> str:
    if "<html" in page[:1000].lower():
        return "it is meant for people; add ?auto to its address"
    return "it tells neither IdleWorkers and BusyWorkers nor a Scoreboard"


def _way_out(status: int) -> str:
    if status in (401, 403):
        return ": allow this machine ('Require local' or 'Require ip' in its <Location>)"
    return ": load mod_status, and give the page a <Location> with 'SetHandler server-status'" if status == 404 else ""
