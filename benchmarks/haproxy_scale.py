"""What one change costs with HAProxy at 20,000 and 100,000 backends, 100 for each service, beside the bars.

The daemon is what a user starts: real etcd, a managed HAProxy, the built-in template. "First" is the plugin's first
apply, from the snapshot to the HAProxy that serves it, HAProxy's own start included. "Live" is from the put in etcd to
HAProxy's new server, as HAProxy's socket tells. "CPU" is that of the daemon's process, user and system, less what it
takes when idle: the write of the file and all else that follows a change, such as the remembered snapshot. The servers
are not verified meanwhile, which takes place whether or not anything changes, and has a benchmark of its own.

Services share an address by their host names. Checks are off, since HAProxy needs a descriptor for each check, and the
run directory is in memory, as /run is.

    python benchmarks/haproxy_scale.py [--changes N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from _haproxy import add_haproxy_argument, binaries, busy, changes, daemon, run_directory, status, verdict, version

from discovery import Backend
from discovery.registry import Lease, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import free_port

EACH = 100
"""Backends of a service."""
PAUSE_SECONDS = 2.0
"""Seconds between two changes: until the daemon has written the remembered snapshot."""
IDLE_SECONDS = 10.0
BUSY_WRITERS = 50
_SCHEDULED = 2
"""Kind of the clock in the clock's number, which clock_getcpuclockid(3) makes of a pid: all CPU time of the process."""


class Bars(NamedTuple):
    """The bars of a size. `first` is in seconds."""

    first: float
    live_ms: float = 20.0
    cpu_ms: float = 20.0


BARS = {20_000: Bars(first=0.5), 100_000: Bars(first=2.2)}


def backend(number: int, port: int = 9) -> Backend:
    """Return a backend of the registry. Nothing listens at its address."""
    service, each = divmod(number, EACH)
    return Backend(
        f"service-{service:04}", f"b{each:05}", f"127.{1 + service // 250}.{service % 250}.{1 + each % 250}", port
    )


async def fill(lease: Lease, count: int) -> None:
    """Register backends."""
    gate = asyncio.Semaphore(BUSY_WRITERS)

    async def put(number: int) -> None:
        async with gate:
            await lease.put(backend(number))

    await asyncio.gather(*map(put, range(count)))


@contextmanager
def watched(stats_socket: Path) -> Iterator[socket.socket]:
    """Open a connection to HAProxy, for any number of commands."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(stats_socket))
        control.sendall(b"prompt\n")
        _answer(control)
        yield control


def _answer(control: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\n> "):
        answer += control.recv(1 << 16)
    return answer


def is_live(control: socket.socket, wanted: Backend) -> bool:
    """Report whether HAProxy has the server at its port."""
    control.sendall(f"show servers state {wanted.service}\n".encode())
    rows = (line.split() for line in _answer(control).decode().splitlines())
    return any(row[3] == wanted.id and row[18] == str(wanted.port) for row in rows if len(row) > 18)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, all threads, user and system.

    By the process's clock, which is exact; /proc/PID/stat counts in steps of 10 ms, as long as a change takes.
    """
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def first_apply(admin: int) -> float | None:
    """Return the seconds of the first apply, once it has ended."""
    try:
        found = status(admin, "/api/consumers/edge")
    except OSError:
        return None
    return float(found["apply_seconds"]) if found["applies"] else None


async def measure(url: str, haproxy: str, count: int, number: int) -> dict[str, float]:
    """Fill the registry, start the daemon, and change one backend after another."""
    registry = open_registry(url)
    lease = await registry.open_lease("benchmark", 600)
    await fill(lease, count)
    bind, admin = f"127.0.0.1:{free_port()}", free_port()
    services = {
        name: f"bind = '{bind}'\nhosts = '{name}.example'\ncheck = false"
        for name in sorted({backend(each).service for each in range(0, count, EACH)})
    }
    live: list[float] = []
    try:
        with (
            run_directory() as directory,
            daemon(url, directory, haproxy, services, admin, "verify_interval = '1h'") as process,
        ):
            while (first := first_apply(admin)) is None:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.2)
            await asyncio.sleep(PAUSE_SECONDS)
            idle_rate = await idle(process.pid)
            with watched(directory / "run" / "edge" / "stats.sock") as control:
                begun, cpu = time.perf_counter(), cpu_seconds(process.pid)
                for change in range(number):
                    new = backend(change * 7919 % count, port=10 + change)
                    await lease.put(new)
                    returned = time.perf_counter()
                    while not is_live(control, new):  # noqa: ASYNC110 - in another process
                        await asyncio.sleep(0.0005)
                    live.append(time.perf_counter() - returned)
                    await asyncio.sleep(PAUSE_SECONDS)
            used = cpu_seconds(process.pid) - cpu - idle_rate * (time.perf_counter() - begun)
            ways = changes(admin)
    finally:
        await lease.close()
        await registry.close()
    return {
        "backends": count,
        "first_seconds": first,
        "live_ms": 1000 * statistics.median(live),
        "slowest_live_ms": 1000 * max(live),
        "cpu_ms": 1000 * used / number,
        "reloads": ways.get("reload", 0),
    }


async def idle(pid: int) -> float:
    """Return the CPU seconds for each second in which nothing changes."""
    begun, cpu = time.perf_counter(), cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - cpu) / (time.perf_counter() - begun)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_haproxy_argument(parser)
    parser.add_argument("--backends", type=int, action="append", choices=BARS, help="repeatable; default: all sizes")
    parser.add_argument("--changes", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    with EmbeddedEtcd() as etcd:
        for haproxy in binaries(arguments.haproxy):
            rows = results[version(haproxy)] = []
            for count in arguments.backends or BARS:
                url = f"{etcd.url}/bench-{len(results)}-{count}"
                rows.append(asyncio.run(measure(url, haproxy, count, arguments.changes)))
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), "results": results}, indent=2))
        return
    print(f"load {busy(os.getloadavg())}; {arguments.changes} changes, the median")
    for name, rows in results.items():
        print(f"HAProxy {name}")
        for row in rows:
            bars = BARS[int(row["backends"])]
            figures = (
                f"first {row['first_seconds']:.2f} s ({_against(row['first_seconds'], bars.first)})",
                f"live {row['live_ms']:.1f} ms ({_against(row['live_ms'], bars.live_ms)})",
                f"slowest {row['slowest_live_ms']:.0f} ms",
                f"CPU {row['cpu_ms']:.1f} ms ({_against(row['cpu_ms'], bars.cpu_ms)})",
                f"{row['reloads']} reloads",
            )
            print(f"  {row['backends']:>7,} backends: {', '.join(figures)}")


def _against(value: float, bar: float) -> str:
    return f"bar {bar:g}: {verdict(value <= bar)}"


if __name__ == "__main__":
    main()
