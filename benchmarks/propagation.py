"""From a put returning to the first request that the new server answers, beside a floor, in one run.

Ours is what a user starts, `discovery run` with the HAProxy plugin: it validates, renders and writes the configuration,
tries the new server, changes HAProxy through its runtime API, and reads the servers back. The floor is the least that
changes a server at all: a watch of etcd, and one connection with one line of commands to an equal HAProxy (`set server
... addr`, or `add server` with `enable health` and `enable server`). The floor tries no server, writes no file, reads
no answer, deletes no server, and is wrong after the next reload.

One server has the traffic, the others are backups. It moves to another port (`move`), or another server joins
(`add`). HAProxy checks every server with the defaults. Rounds alternate between ours and the floor, on one etcd and one
HAProxy binary; every round trip is a new connection.

    python benchmarks/propagation.py [--servers SERVICESxEACH ...] [--trials N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

from _haproxy import (
    add_haproxy_argument,
    ask,
    binaries,
    busy,
    child,
    command,
    daemon,
    origins,
    run_directory,
    verdict,
    version,
)

from discovery import Backend
from discovery.registry import Lease, Reset, Stale, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port

BAR = 1.5
"""The largest ratio of the medians."""
SHAPES = ("1x10", "10x100", "1x1000")
CHANGES = ("move", "add")
PAUSE = 0.2
"""Seconds between two trials: the daemon keeps the snapshot on the disk 0.1 s after a change."""
POLL = 0.0002
"""Seconds between two requests: the client leaves the processors to those who are measured."""

CONFIG = """\
global
    stats socket {directory}/stats.sock mode 600 level admin
    hard-stop-after 1s
defaults
    mode http
    option redispatch 1
    option idle-close-on-response
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    default-server inter 2s fastinter 500ms rise 2 fall 3
{sections}
"""
SECTION = """\
frontend f-{name}
    bind 127.0.0.1:{port}
    default_backend {name}
backend {name}
    balance roundrobin
{servers}
"""


def floor(url: str, haproxy: str, directory: str, ports: Mapping[str, int]) -> None:
    """Watch, and send a line of commands for each change."""
    place = Path(directory)
    config, stats = place / "haproxy.cfg", place / "stats.sock"
    process: subprocess.Popen[bytes] | None = None
    known: set[str] = set()

    def server(record: Mapping[str, Any]) -> str:
        backup = " backup" if record.get("role") == "standby" else ""
        return f"{record['host']}:{record['port']} check{backup}"

    def start(records: Mapping[str, bytes]) -> None:
        nonlocal process
        lines: dict[str, list[str]] = {name: [] for name in ports}
        for key, value in records.items():
            service, _, id_ = key.partition("/")
            lines[service].append(f"    server {id_} {server(json.loads(value))}")
        sections = [
            SECTION.format(name=name, port=port, servers="\n".join(lines[name])) for name, port in ports.items()
        ]
        config.write_text(CONFIG.format(directory=directory, sections="".join(sections)))
        started = [haproxy, "-W", "-f", str(config)]
        process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        known.update(records)

    def change(key: str, value: bytes) -> None:
        if key in known:
            record = json.loads(value)
            command(stats, f"set server {key} addr {record['host']} port {record['port']}")
            return
        known.add(key)
        added = f"add server {key} {server(json.loads(value))}"
        command(stats, added, f"enable health {key}", f"enable server {key}")

    def remove(key: str) -> None:
        command(stats, f"set server {key} state maint")

    async def main() -> None:
        async with aclosing(open_registry(url).watch()) as events:
            async for event in events:
                if isinstance(event, Reset):
                    start(event.records)
                elif not isinstance(event, Stale):
                    for key, value in event.puts.items():
                        change(key, value)
                    for key in event.deletes:
                        remove(key)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        asyncio.run(main())
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def backends(names: list[str], each: int, port: int) -> Iterator[Backend]:
    """Yield the registry's contents: of each service one server with the traffic, and its backups."""
    for service, name in enumerate(names):
        yield Backend(name, "b", "127.0.0.1", port)
        for number in range(each - 1):
            address = f"127.{1 + service}.{number // 250}.{1 + number % 250}"
            yield Backend(name, f"s{number:04}", address, port, labels={"role": "standby"})


async def trials(haproxy: str, services: int, each: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds by kind of change and contestant."""
    contestants = ("ours", "floor")
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in contestants} for kind in CHANGES}
    names = ["web", *(f"s{number}" for number in range(1, services))]
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = stack.enter_context(run_directory())
        first, second = stack.enter_context(origins(haproxy, 2))
        fronts = {name: {service: free_port() for service in names} for name in contestants}
        registries = {name: open_registry(f"{etcd.url}/{name}") for name in contestants}
        leases = {name: await registry.open_lease("benchmark", 600) for name, registry in registries.items()}
        for lease in leases.values():
            await asyncio.gather(*map(lease.put, backends(names, each, first)))
        options = "bind = '127.0.0.1:{}'\nbackup = {{ label = 'role', is = 'standby' }}"
        ours = {service: options.format(port) for service, port in fronts["ours"].items()}
        stack.enter_context(daemon(f"{etcd.url}/ours", directory / "ours", haproxy, ours))
        (directory / "floor").mkdir()
        stack.enter_context(child(floor, f"{etcd.url}/floor", haproxy, str(directory / "floor"), fronts["floor"]))
        for front in fronts.values():
            eventually_sync(lambda front=front: ask(front["web"]) == str(first).encode(), timeout=60)
        await asyncio.sleep(1)
        for number in range(count):
            # Equal numbers of rounds begin with each.
            for name in contestants if number % 2 else contestants[::-1]:
                lease, front = leases[name], fronts[name]["web"]
                for port in (second, first):
                    moved = Backend("web", "b", "127.0.0.1", port)
                    times["move"][name].append(await timed(lease, moved, front))
                added = Backend("web", f"n{number:04}", "127.0.0.1", second)
                times["add"][name].append(await timed(lease, added, front))
                await lease.delete(added)
                await alone(front, first)
        for registry in registries.values():
            await registry.close()
    return times


async def timed(lease: Lease, backend: Backend, front: int) -> float:
    """Return the seconds of one trial: from the end of the put to the end of the first answer by the new server."""
    await lease.put(backend)
    begun = time.perf_counter()
    wanted = str(backend.port).encode()
    while ask(front) != wanted:
        if time.perf_counter() - begun > 30:
            raise RuntimeError("no answer by the new server within 30 s")
        time.sleep(POLL)  # noqa: ASYNC251 - nothing else is to run here meanwhile
    seconds = time.perf_counter() - begun
    await asyncio.sleep(PAUSE)
    return seconds


async def alone(front: int, port: int) -> None:
    """Wait until this origin answers alone: of two servers each answers every other request."""
    while {ask(front) for _ in range(4)} != {str(port).encode()}:  # noqa: ASYNC110 - another process is polled
        await asyncio.sleep(PAUSE / 4)
    await asyncio.sleep(PAUSE)


def row(haproxy: str, shape: str, kind: str, times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the figures of one line."""
    figures: dict[str, Any] = {"haproxy": version(haproxy), "servers": shape, "change": kind}
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = 1000 * cuts[49], 1000 * cuts[98]
    figures["ratio_p50"] = figures["ours_p50_ms"] / figures["floor_p50_ms"]
    figures["met"] = figures["ratio_p50"] <= BAR
    return figures


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", action="append", help=f"repeatable; default: {', '.join(SHAPES)}")
    parser.add_argument("--trials", type=int, default=30, help="rounds of two moves and an addition")
    parser.add_argument("--json", action="store_true")
    add_haproxy_argument(parser)
    arguments = parser.parse_args()
    rows = []
    for haproxy in binaries(arguments.haproxy):
        for shape in arguments.servers or SHAPES:
            services, each = map(int, shape.split("x"))
            times = asyncio.run(trials(haproxy, services, each, arguments.trials))
            rows += [row(haproxy, shape, kind, times[kind]) for kind in CHANGES]
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=2))
        return
    print(f"{'HAProxy':20}{'servers':>8} change{'ours p50':>13}{'p99':>10}{'floor p50':>12}{'p99':>10}{'ratio':>8}")
    for each in rows:
        print(
            f"{each['haproxy']:20}{each['servers']:>8} {each['change']:6}"
            f"{each['ours_p50_ms']:>10.2f} ms{each['ours_p99_ms']:>7.1f} ms"
            f"{each['floor_p50_ms']:>9.2f} ms{each['floor_p99_ms']:>7.1f} ms"
            f"{each['ratio_p50']:>8.2f}, at most {BAR}: {verdict(each['met'])}"
        )
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
