"""What open tabs of the live page cost: 50 of them, at 10 changes a second, for 30 s.

The core's CPU is that of the daemon's process, user and system, in percent of a processor; what tabs cost is the
difference to the same changes without a tab. HAProxy follows the changes meanwhile, and the daemon's history tells how
long each took. A tab is a reader of the page's events, in a process apart from the daemon; `--pages` opens real pages
in Debian's chromium besides, all as tabs of one visitor, who has one stream of events.

    python benchmarks/page_tabs.py [--tabs N] [--seconds N] [--pages] [--json]
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
EVENTS = "/stream"
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def change(lease: Lease, numbers: Iterator[int], seconds: int) -> None:
    """Make changes at a steady rate: another weight of one backend after the other."""
    begun = time.perf_counter()
    for done, number in enumerate(islice(numbers, RATE * seconds), 1):
        turn, place = divmod(number, BACKENDS)
        await lease.put(Backend("web", f"n{place:02}", "127.0.0.1", 1000 + place, weight=2 + turn % 7))
        await asyncio.sleep(max(0.0, begun + done / RATE - time.perf_counter()))


def read(url: str, tabs: int, pipe: Pipe) -> None:
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
                answer = await session.get(url, raise_for_status=True)
                tasks.append(group.create_task(tab(answer, number)))
            pipe.send("open")
            await asyncio.to_thread(pipe.recv)
            for task in tasks:
                task.cancel()
            pipe.send(counts)

    counts = [0] * tabs
    asyncio.run(main())


@contextmanager
def readers(url: str, tabs: int) -> Iterator[Callable[[], list[int]]]:
    """Run the tabs, and yield what closes them and tells the events of each."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=read, args=(url, tabs, theirs))
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
                page.get_by_text(revision).first.wait_for(timeout=10_000, state="attached")
                fresh += 1
            except Exception as error:  # noqa: BLE001 - a tab that is not live is counted
                print(error)
        pipe.send(fresh)
        browser.close()


class Measured:
    """The daemon and its changes, measured with and without tabs."""

    def __init__(self, pid: int, admin: int, lease: Lease, seconds: int) -> None:
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
        await change(self._lease, self._numbers, self._seconds)
        percent = 100 * (cpu_seconds(self._pid) - before) / (time.perf_counter() - begun)
        await asyncio.sleep(0.5)
        changes = status(self._admin, "/api/history")["changes"]
        took = [each["consumers"]["edge"] for each in changes if each["revision"] > last]
        delays = sorted(each["applied_ms"] for each in took if each)
        return {
            "core_percent": percent,
            "changes": len(took),
            "applied_ms_p50": statistics.median(delays),
            "applied_ms_p99": delays[int(0.99 * (len(delays) - 1))],
        }


async def measure(tabs: int, seconds: int, *, pages: bool) -> dict[str, Any]:
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
        figures: dict[str, Any] = {"tabs": tabs, "seconds": seconds, "without": await measured.phase()}
        with readers(f"{url}{EVENTS}", tabs) as close:
            figures["with_tabs"] = await measured.phase()
            counts = await asyncio.to_thread(close)
            figures["events_per_second_of_a_tab"] = min(counts) / (seconds + 0.5), max(counts) / (seconds + 0.5)
        if pages:
            ours, theirs = get_context("spawn").Pipe()
            browser = get_context("spawn").Process(target=browse, args=(f"{url}/", tabs, theirs))
            browser.start()
            await asyncio.to_thread(ours.recv)
            figures["streams_of_pages"] = open_streams(process.pid, admin)
            figures["with_pages"] = await measured.phase()
            ours.send(str(status(admin, "/api/status")["registry"]["revision"]))
            figures["live_pages"] = await asyncio.to_thread(ours.recv)
            browser.join()
        await registry.close()
    figures["tabs_cost_percent"] = figures["with_tabs"]["core_percent"] - figures["without"]["core_percent"]
    figures["met"] = figures["tabs_cost_percent"] < BAR_PERCENT
    return figures


def open_streams(pid: int, port: int) -> int:
    """Return the number of connections that a process has open at its port."""
    local = f":{port:04X} "
    sockets = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
    return sum(local in line[:21] and line.split()[3] == "01" for line in sockets)


def main() -> None:
    """Print a few lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tabs", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--pages", action="store_true", help="real pages in chromium, too: needs the extra `browser`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.tabs, arguments.seconds, pages=arguments.pages))
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), **figures}, indent=2))
        return
    print(f"{RATE} changes/s for {arguments.seconds} s, {BACKENDS} backends, HAProxy")
    for name, title in (("without", "no tab"), ("with_tabs", f"{arguments.tabs} tabs"), ("with_pages", "as pages")):
        if row := figures.get(name):
            print(f"  {title:9} core {row['core_percent']:4.1f} % of a processor", end="")
            print(f"; put to applied p50 {row['applied_ms_p50']:.1f} ms, p99 {row['applied_ms_p99']:.1f} ms")
    least, most = figures["events_per_second_of_a_tab"]
    print(f"  a tab gets {least:.1f} to {most:.1f} events/s")
    if pages := figures.get("live_pages"):
        print(f"  {pages} of {arguments.tabs} pages are live, by {figures['streams_of_pages']} connection(s)")
    print(f"  the tabs cost {figures['tabs_cost_percent']:.1f} % of a processor", end="")
    print(f" (bar {BAR_PERCENT:g} %: {verdict(figures['met'])})")
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
