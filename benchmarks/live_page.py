"""The live page: what open tabs cost the core, and how soon a filter answers, with very many backends.

A daemon follows an etcd with `--backends` backends, for a consumer that does nothing. First without tabs, then with
`--tabs`, there are `--rate` changes a second for `--seconds`; the cost is the daemon's additional processor time. The
delay is how long after a put a record is in the daemon's snapshot, asked by a long poll.

    python benchmarks/live_page.py [--backends N] [--tabs N] [--rate N] [--seconds N] [--json]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from discovery import Backend
from discovery.registry import Lease, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually, free_port

CONSUMER = """
from discovery import Consumer, PluginConfig, hookimpl

class Follows(Consumer[PluginConfig]):
    def apply(self, update):
        pass

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""
FILTER_BAR = 0.1
"""Seconds in which a filter answers."""
COST_BAR = 0.05
"""Share of a processor that the tabs take from the core."""


def used(pid: int) -> float:
    """Return the seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def read(session: aiohttp.ClientSession, url: str, counts: list[int], at: int) -> None:
    """Be a tab: count the messages of a stream. Connections are accepted few at a time, so tabs open one by one."""
    await asyncio.sleep(at / 20)
    async with session.get(f"{url}/stream?view=") as answer:
        async for line in answer.content:
            counts[at] += line.startswith(b"data: ")


async def change(lease: Lease, rate: float, seconds: float) -> None:
    """Change one backend after the other."""
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        await lease.put(Backend(f"service-{number % 20}", "changing", "10.0.0.1", 1 + number))


async def delay(session: aiohttp.ClientSession, url: str, lease: Lease, number: int) -> float:
    """Return the seconds from a put until the daemon has the record in its snapshot."""
    service = f"new-{number}"
    waiting = asyncio.ensure_future(session.get(f"{url}/api/wait?service={service}&timeout=10"))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await lease.put(Backend(service, "one", "10.0.0.1", 80))
    async with await waiting as answer:
        assert (await answer.json())["met"]
    return time.monotonic() - began


async def with_tabs(url: str, pid: int, lease: Lease, tabs: int, rate: float, seconds: float) -> dict[str, Any]:
    """Return the daemon's share of a processor while `tabs` are open, and the delays of snapshots."""
    counts = [0] * tabs
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**22) as session:
        readers = [asyncio.create_task(read(session, url, counts, at)) for at in range(tabs)]
        await eventually(lambda: all(each >= 2 for each in counts), timeout=30)
        await asyncio.sleep(1)
        before, began, first = used(pid), time.monotonic(), sum(counts)
        changing = asyncio.create_task(change(lease, rate, seconds))
        delays = []
        while not changing.done():
            delays.append(await delay(session, url, lease, tabs * 1000 + len(delays)))
            await asyncio.wait({changing}, timeout=0.5)
        took = time.monotonic() - began
        share = (used(pid) - before) / took
        for each in readers:
            each.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    delays.sort()
    return {
        "tabs": tabs,
        "share": round(share, 4),
        "updates_per_tab_and_second": round((sum(counts) - first) / max(1, tabs) / took, 2),
        "delay_median_ms": round(1000 * delays[len(delays) // 2], 1),
        "delay_longest_ms": round(1000 * delays[-1], 1),
    }


async def filters(url: str) -> dict[str, float]:
    """Return how many milliseconds the page takes for some filters, the median of several."""
    found = {}
    async with aiohttp.ClientSession(headers={"Accept": "text/html"}) as session:
        for query in ("", "q=77", "q=zone", "state=draining", "health=well", "q=nothing-like-it", "page=50"):
            times = []
            for _ in range(7):
                began = time.monotonic()
                async with session.get(f"{url}/?{query}") as answer:
                    await answer.read()
                times.append(time.monotonic() - began)
            found[query] = round(1000 * sorted(times)[3], 1)
    return found


async def measure(backends: int, tabs: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run a daemon and measure it."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        etcd = stack.enter_context(EmbeddedEtcd())
        registry = open_registry(etcd.url)
        stack.push_async_callback(registry.close)
        lease = await registry.open_lease("benchmark", 60)
        stack.push_async_callback(lease.close)
        several = asyncio.Semaphore(50)

        async def put(number: int) -> None:
            async with several:
                labels = {"zone": f"z{number % 3}", "version": "1.2.3"}
                await lease.put(Backend(f"service-{number % 100}", f"id-{number}", "10.0.0.1", 80, labels=labels))

        await asyncio.gather(*map(put, range(backends)))
        (directory / "follows.py").write_text(CONSUMER)
        admin = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "discovery", "run", "--registry", etcd.url, "--admin", admin]
        command += ["--plugin", str(directory / "follows.py")]
        command += ["--run-dir", str(directory / "run"), "--state-dir", str(directory / "state")]
        daemon = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        stack.push_async_callback(daemon.wait)
        stack.callback(daemon.terminate)
        url = f"http://{admin}"

        async def is_there() -> bool:
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{url}/api/status") as answer:
                    return bool((await answer.json())["backends"] >= backends)
            except aiohttp.ClientError:
                return False

        await eventually(is_there, timeout=120)
        times = await filters(url)
        without = await with_tabs(url, daemon.pid, lease, 0, rate, seconds)
        with_ = await with_tabs(url, daemon.pid, lease, tabs, rate, seconds)
    cost = round(with_["share"] - without["share"], 4)
    return {"backends": backends, "filters_ms": times, "runs": [without, with_], "cost": cost}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=int, default=10_000)
    parser.add_argument("--tabs", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.backends, arguments.tabs, arguments.rate, arguments.seconds))
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{found['backends']} backends; the page with a filter: {found['filters_ms']} ms")
    for each in found["runs"]:
        print(each)
    slow = max(found["filters_ms"].values()) >= 1000 * FILTER_BAR
    print(f"cost of {arguments.tabs} tabs: {100 * found['cost']:.2f} % of a processor; ", end="")
    print("bars met" if not slow and found["cost"] < COST_BAR else "BARS MISSED")


if __name__ == "__main__":
    main()
