"""Where the time of one change goes, from etcd's event to HAProxy's answer, by part.

The daemon is that of `propagation.py`, and runs in a process that notes when each part begins. A part ends where the
next part begins. "Wall" is the median of its duration, "CPU" that of the CPU time of its thread: where both are equal
the change waits for nothing. The hand-over to the plugin's thread has no CPU time, since two threads share the part.

Each change comes after a pause, as in `propagation.py`: other programs have the processor's caches meanwhile, and the
parts take several times as long as they would in a loop.

    python benchmarks/parts_of_a_change.py [--servers SERVICESxEACH ...] [--changes N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from _haproxy import add_haproxy_argument, ask, binaries, busy, daemon, origins, run_directory, version

from discovery import Backend
from discovery.registry import open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port

SHAPES = ("1x10", "1x1000")
PAUSE = 0.2
"""Seconds between two changes, as in `propagation.py`."""


class Part(NamedTuple):
    """A part, and the function whose call begins the part."""

    name: str
    module: str
    function: str


_CORE, _PLUGIN = "discovery.consuming", "discovery_haproxy"
PARTS = (
    Part("etcd client: the response", "discovery.registry.etcd.follower", "WatchHistory.receive"),
    Part("core: holds, record, snapshot", f"{_CORE}.following", "RegistryFeed._apply_event"),
    Part("core: what has changed", f"{_CORE}.resolving", "SnapshotResolver.take"),
    Part("hand-over to the plugin's thread", f"{_CORE}.runner", "ConsumerRunner.offer"),
    Part("runner", f"{_CORE}.runner", "ConsumerRunner._apply_latest"),
    Part("plugin: program and files", f"{_PLUGIN}.consumer", "HAProxyConsumer.apply"),
    Part("rendering", f"{_PLUGIN}.consumer", "HAProxyConsumer._render"),
    Part("plan", f"{_PLUGIN}.managed.target", "ManagedHAProxy.needs_check"),
    Part("file: write", f"{_PLUGIN}.managed.target", "ManagedHAProxy.prepare"),
    Part("addresses to listen on", f"{_PLUGIN}.deployment.bind_check", "find_bind_faults"),
    Part("HAProxy is there", f"{_PLUGIN}.managed.target", "ManagedHAProxy.deploy"),
    Part("test of the target", f"{_PLUGIN}.runtime_api.reachability", "try_targets"),
    Part("file: install", f"{_PLUGIN}.deployment.install", "install"),
    Part("commands", f"{_PLUGIN}.runtime_api.live_servers", "LiveServers.execute"),
    Part("HAProxy's answer", f"{_PLUGIN}.runtime_api.connection", "Connection._answers"),
    Part("", f"{_PLUGIN}.runtime_api.execution", "read_back"),
)


async def measure(haproxy: str, shape: str, count: int) -> dict[str, Any]:
    """Return the medians of each part in microseconds, and of the whole."""
    services, each = map(int, shape.split("x"))
    names = [f"s{number}" for number in range(services)]
    moments: list[int] = []
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = stack.enter_context(run_directory())
        first, second = stack.enter_context(origins(haproxy, 2))
        fronts = {name: free_port() for name in names}
        registry = open_registry(f"{etcd.url}/bench")
        lease = await registry.open_lease("benchmark", 600)
        for name in names:
            standby = [
                Backend(name, f"s{number:04}", f"127.1.{number // 250}.{1 + number % 250}", first, labels={"role": "x"})
                for number in range(each - 1)
            ]
            await asyncio.gather(*map(lease.put, [Backend(name, "b", "127.0.0.1", first), *standby]))
        options = "bind = '127.0.0.1:{}'\nbackup = {{ label = 'role', is = 'x' }}"
        stamps = directory / "stamps.json"
        with daemon(
            f"{etcd.url}/bench",
            directory,
            haproxy,
            {name: options.format(port) for name, port in fronts.items()},
            program=(str(Path(__file__).with_name("_stamped.py")), str(stamps)),
        ):
            front = fronts["s0"]
            eventually_sync(lambda: ask(front) == str(first).encode(), timeout=60)
            for _ in range(count):
                for port in (second, first):
                    await asyncio.sleep(PAUSE)
                    moments.append(time.perf_counter_ns())
                    await lease.put(Backend("s0", "b", "127.0.0.1", port))
                    eventually_sync(lambda port=port: ask(front) == str(port).encode())
            await asyncio.sleep(PAUSE)
            moments.append(time.perf_counter_ns())
        await registry.close()
        return _medians(json.loads(stamps.read_text()), moments)


def _medians(stamps: list[tuple[int, int, int, int]], moments: list[int]) -> dict[str, Any]:
    walls: dict[str, list[float]] = {part.name: [] for part in PARTS[:-1]}
    cpus: dict[str, list[float]] = {part.name: [] for part in PARTS[:-1]}
    totals = []
    for begin, end in pairwise(moments):
        found: dict[int, tuple[int, int, int]] = {}
        for number, thread, wall, cpu in stamps:
            # The first call of each part, in the order of the parts: later calls are of what follows the change.
            if begin <= wall < end and number not in found and (number == 0 or number - 1 in found):
                found[number] = thread, wall, cpu
        if len(found) < len(PARTS):
            continue  # a reload, which has other parts
        totals.append((found[len(PARTS) - 1][1] - found[0][1]) / 1000)
        for number, part in enumerate(PARTS[:-1]):
            (thread, wall, cpu), (other, then, used) = found[number], found[number + 1]
            walls[part.name].append((then - wall) / 1000)
            if thread == other:
                cpus[part.name].append((used - cpu) / 1000)
    parts = {
        name: {
            "wall_us": statistics.median(walls[name]),
            "cpu_us": statistics.median(cpus[name]) if cpus[name] else None,
        }
        for name in walls
    }
    return {"parts": parts, "wall_us": statistics.median(totals), "changes": len(totals)}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", action="append", help=f"repeatable; default: {', '.join(SHAPES)}")
    parser.add_argument("--changes", type=int, default=15, help="moves there and back")
    parser.add_argument("--json", action="store_true")
    add_haproxy_argument(parser)
    arguments = parser.parse_args()
    results = [
        {"haproxy": version(haproxy), "servers": shape, **asyncio.run(measure(haproxy, shape, arguments.changes))}
        for haproxy in binaries(arguments.haproxy)
        for shape in arguments.servers or SHAPES
    ]
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), "results": results}, indent=2))
        return
    for each in results:
        print(f"HAProxy {each['haproxy']}, {each['servers']} servers, {each['changes']} moves")
        for name, part in each["parts"].items():
            cpu = "" if part["cpu_us"] is None else f"{part['cpu_us']:9.0f} us CPU"
            print(f"  {name:34}{part['wall_us']:7.0f} us wall{cpu}")
        print(f"  {'all':34}{each['wall_us']:7.0f} us wall")
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
