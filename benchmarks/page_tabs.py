"""What open tabs of the live page cost: 50 of them, at 10 changes a second, in rounds with and without tabs.

The core's CPU is that of the daemon's process, user and system, in percent of a processor; what tabs cost is the
difference to the same changes without a tab. HAProxy follows the changes meanwhile. For each change the clock is read
before the put; the daemon's history tells when the change had arrived, when consumers were offered the snapshot, and
when HAProxy had it. So a tab that keeps the core from reading the registry counts, too. Rounds with and without tabs
alternate: what changes on the machine meanwhile meets both, and rounds without tabs tell how much is noise.

A tab is a reader of the page's events with a connection of its own, in a process apart from the daemon: as 50 people
have, each at a machine of their own, which costs most. `--views` has them look for different things. `--pages` opens
real pages in Debian's chromium besides, all as tabs of one visitor, who has one stream of events.

    python benchmarks/page_tabs.py [--tabs N] [--views N] [--rounds N] [--seconds N] [--pages] [--json]
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import aiohttp
from _haproxy import binaries, busy, daemon, run_directory, status, verdict

from discovery import Backend
from discovery.registry import Lease, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port

RATE = 10
"""Changes in a second."""
BACKENDS = 100
BAR_PERCENT = 5.0
BAR_MILLISECONDS = 2.0
"""By how much the median delay of a snapshot may differ: a slice of the page's work on the core's loop is as long."""
EVENTS = "/stream"
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def change(lease: Lease, numbers: Iterator[int], seconds: float) -> dict[str, list[float]]:
    """Change the weight of one backend after the other, at a steady rate. Return when each was put, by key."""
    begun = time.perf_counter()
    puts: dict[str, list[float]] = {}
    for done, number in enumerate(islice(numbers, int(RATE * seconds)), 1):
        turn, place = divmod(number, BACKENDS)
        backend = Backend("web", f"n{place:02}", "127.0.0.1", 1000 + place, weight=2 + turn % 7)
        puts.setdefault(backend.key, []).append(time.time())
        await lease.put(backend)
        await asyncio.sleep(max(0.0, begun + done / RATE - time.perf_counter()))
    return puts


def view(number: int, views: int) -> str:
    """Return the query of the stream of a tab: the first view is the page itself, the others look for something."""
    return f"?view=q%3Dn{number % views}" if number % views else ""


def read(url: str, tabs: int, views: int, pipe: Pipe) -> None:
    """Read the events of all tabs until asked, and answer with the number of events."""

    async def tab(answer: aiohttp.ClientResponse, number: int) -> None:
        async for line in answer.content:
            if not line.strip():
                counts[number] += 1
        raise ConnectionError(f"the stream of tab {number} has ended")

    async def main() -> None:
        connector, no_limit = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=no_limit, read_bufsize=1 << 20) as session,
            asyncio.TaskGroup() as group,
        ):
            tasks = []
            for number in range(tabs):  # one after the other, as people open them
                answer = await session.get(url + view(number, views), raise_for_status=True)
                tasks.append(group.create_task(tab(answer, number)))
            pipe.send("open")
            await asyncio.to_thread(pipe.recv)
            for task in tasks:
                task.cancel()
            pipe.send(counts)

    counts = [0] * tabs
    asyncio.run(main())


@contextmanager
def readers(url: str, tabs: int, views: int) -> Iterator[Callable[[], list[int]]]:
    """Run the tabs, and yield what closes them and tells the events of each."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=read, args=(url, tabs, views, theirs))
    process.start()
    theirs.close()

    def ask() -> list[int]:
        ours.send("close")
        return list(ours.recv())

    try:
        ours.recv()
        yield ask
    finally:
        process.terminate()
        process.join()


_CATCH_UP = 60_000
"""Milliseconds for the first page: fifty of them draw five times a second, and may be behind on few processors."""


def browse(url: str, tabs: int, pipe: Pipe) -> None:
    """Open real pages in one browser until asked, and answer how many show the newest revision."""
    from playwright.sync_api import sync_playwright

    from discovery.system.embedded import find_program

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_program("chromium"), args=["--disable-dev-shm-usage"], chromium_sandbox=False
        )
        context = browser.new_context()
        pages = [context.new_page() for _ in range(tabs)]
        for page in pages:
            page.goto(url, timeout=120_000)
        pipe.send("open")
        revision = pipe.recv()
        fresh = 0
        for page in pages:
            try:
                page.get_by_text(revision).first.wait_for(timeout=_CATCH_UP, state="attached")
                fresh += 1
            except Exception as error:  # noqa: BLE001 - a tab that is not live is counted
                print(error)
        pipe.send(fresh)
        browser.close()


class Measured:
    """The daemon and its changes, measured with and without tabs."""

    def __init__(self, pid: int, admin: int, lease: Lease, seconds: float) -> None:
        """Measure the daemon `pid` with its admin endpoint at the port `admin`."""
        self._pid, self._admin, self._lease, self._seconds = pid, admin, lease, seconds
        self._numbers = count()

    async def warm(self) -> None:
        """Make a few changes, for what is loaded on first use."""
        await change(self._lease, self._numbers, 2)

    async def phase(self) -> dict[str, Any]:
        """Make the changes, and return the CPU in percent of a processor and the delays in milliseconds."""
        last = status(self._admin, "/api/history?limit=1")["changes"][0]["revision"]
        before, begun = cpu_seconds(self._pid), time.perf_counter()
        puts = await change(self._lease, self._numbers, self._seconds)
        percent = 100 * (cpu_seconds(self._pid) - before) / (time.perf_counter() - begun)
        await asyncio.sleep(0.5)
        changes = [each for each in status(self._admin, "/api/history")["changes"] if each["revision"] > last]
        offered, applied = [], []
        for each in changes:
            arrived = datetime.fromisoformat(each["time"]).timestamp()
            took = each["consumers"]["edge"]
            for named in each["changes"]:
                times = puts[named["key"]]
                put = times[max(0, bisect_right(times, arrived + 0.001) - 1)]  # the daemon tells whole milliseconds
                offered.append(1000 * (arrived - put) + took["watch_ms"])
                applied.append(1000 * (arrived - put) + took["applied_ms"])
        return {"core_percent": percent, "changes": len(changes), "offered_ms": offered, "applied_ms": applied}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values is."""
    return sorted(values)[int(share * (len(values) - 1))]


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the rounds of one kind, together, and the highest percentile of each round."""
    told: dict[str, Any] = {
        "core_percent": statistics.mean(each["core_percent"] for each in rounds),
        "changes": sum(each["changes"] for each in rounds),
    }
    for name in ("offered_ms", "applied_ms"):
        values = [value for each in rounds for value in each[name]]
        told |= {f"{name}_p{round(100 * share)}": percentile(values, share) for share in (0.5, 0.9, 0.99)}
        told[f"{name}_p50_of_rounds"] = [percentile(each[name], 0.5) for each in rounds]
        told[f"{name}_p99_of_rounds"] = [percentile(each[name], 0.99) for each in rounds]
    return told


async def measure(tabs: int, views: int, rounds: int, seconds: float, *, pages: bool) -> dict[str, Any]:
    """Return the figures without tabs, with readers, and with pages."""
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = stack.enter_context(run_directory())
        admin = free_port()
        registry = open_registry(etcd.url)
        lease = await registry.open_lease("benchmark", 600)
        for number in range(BACKENDS):
            await lease.put(Backend("web", f"n{number:02}", "127.0.0.1", 1000 + number))
        services = {"web": f"bind = '127.0.0.1:{free_port()}'\ncheck = false"}
        process = stack.enter_context(daemon(etcd.url, directory, binaries(None)[0], services, admin))
        url = f"http://127.0.0.1:{admin}"
        eventually_sync(lambda: status(admin, "/readyz")["ready"], timeout=60)
        measured = Measured(process.pid, admin, lease, seconds)
        await measured.warm()
        figures: dict[str, Any] = {"tabs": tabs, "views": views, "rounds": rounds, "seconds": seconds}
        events: list[float] = []

        async def with_tabs() -> dict[str, Any]:
            with readers(f"{url}{EVENTS}", tabs, views) as close:
                begun = time.perf_counter()
                found = await measured.phase()
                counts = await asyncio.to_thread(close)
                events.extend(each / (time.perf_counter() - begun) for each in counts)
                return found

        found: dict[str, list[dict[str, Any]]] = {"without": [], "with_tabs": []}
        for number in range(rounds):
            kinds = {"without": measured.phase, "with_tabs": with_tabs}
            for kind in sorted(kinds, reverse=number % 2 == 0):  # which is first alternates, too
                found[kind].append(await kinds[kind]())
        figures |= {kind: summary(each) for kind, each in found.items()}
        figures["events_per_second_of_a_tab"] = min(events), max(events)
        if pages:
            ours, theirs = get_context("spawn").Pipe()
            browser = get_context("spawn").Process(target=browse, args=(f"{url}/", tabs, theirs))
            browser.start()
            await asyncio.to_thread(ours.recv)
            figures["streams_of_pages"] = open_streams(process.pid, admin)
            figures["with_pages"] = summary([await measured.phase()])
            ours.send(str(status(admin, "/api/status")["registry"]["revision"]))
            figures["live_pages"] = await asyncio.to_thread(ours.recv)
            browser.join()
        await registry.close()
    without, with_ = figures["without"], figures["with_tabs"]
    figures["tabs_cost_percent"] = with_["core_percent"] - without["core_percent"]
    figures["tabs_delay_snapshots_ms"] = with_["offered_ms_p50"] - without["offered_ms_p50"]
    figures["met"] = figures["tabs_cost_percent"] < BAR_PERCENT
    figures["delay_met"] = figures["tabs_delay_snapshots_ms"] < BAR_MILLISECONDS
    return figures


def open_streams(pid: int, port: int) -> int:
    """Return the number of connections that a process has open at its port."""
    local = f":{port:04X} "
    sockets = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
    return sum(local in line[:21] and line.split()[3] == "01" for line in sockets)


def told(values: Sequence[float]) -> str:
    """Return milliseconds for people."""
    return " ".join(f"{value:.1f}" for value in values)


def main() -> None:
    """Print a few lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tabs", type=int, default=50)
    parser.add_argument("--views", type=int, default=1, help="how many different things the tabs look for")
    parser.add_argument("--rounds", type=int, default=4, help="with tabs, and as many without")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each round")
    parser.add_argument("--pages", action="store_true", help="real pages in chromium, too: needs the extra `browser`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(
        measure(arguments.tabs, arguments.views, arguments.rounds, arguments.seconds, pages=arguments.pages)
    )
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), **figures}, indent=2))
        return
    print(f"{RATE} changes/s, {arguments.rounds} rounds of {arguments.seconds:g} s of each kind, ", end="")
    print(f"{BACKENDS} backends, HAProxy, {arguments.views} view(s); p50, p90, p99 in ms")
    for name, title in (("without", "no tab"), ("with_tabs", f"{arguments.tabs} tabs"), ("with_pages", "as pages")):
        if row := figures.get(name):
            print(f"  {title:9} core {row['core_percent']:4.1f} % of a processor", end="")
            for kind in ("offered", "applied"):
                print(f"; put to {kind} {told([row[f'{kind}_ms_p{share}'] for share in (50, 90, 99)])}", end="")
            print(f"\n            of each round: offered p50 {told(row['offered_ms_p50_of_rounds'])}", end="")
            print(f"; applied p99 {told(row['applied_ms_p99_of_rounds'])}")
    least, most = figures["events_per_second_of_a_tab"]
    print(f"  a tab gets {least:.1f} to {most:.1f} events/s")
    if pages := figures.get("live_pages"):
        print(f"  {pages} of {arguments.tabs} pages are live, by {figures['streams_of_pages']} connection(s)")
    print(f"  the tabs cost {figures['tabs_cost_percent']:.1f} % of a processor", end="")
    print(f" (bar {BAR_PERCENT:g} %: {verdict(figures['met'])})")
    print(f"  the tabs delay the median snapshot by {figures['tabs_delay_snapshots_ms']:.1f} ms", end="")
    print(f" (bar {BAR_MILLISECONDS:g} ms: {verdict(figures['delay_met'])})")
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
