"""How long requests wait while HAProxy obeys the commands of a change, and how long the change takes.

A backend has many servers, all at once added, moved, given other weights, removed or deleted. Meanwhile another
process sends requests that HAProxy answers itself, on as many connections as reach each of HAProxy's threads, and
notes the slowest. The slowest request of the same time without a change is the share of the machine.

    python benchmarks/runtime_stalls.py [--servers N ...] [--changed N] [--balance ALGORITHM ...] [--json]
"""

import argparse
import asyncio
import json
import multiprocessing
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import structlog

from discovery.system.embedded import find_program
from discovery.testing import free_port
from discovery.toolkit import wheel_program
from discovery_haproxy.runtime_api.commands import delete
from discovery_haproxy.runtime_api.connection import connect
from discovery_haproxy.runtime_api.execution import Changes
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.planner import Plan, make_plan
from discovery_haproxy.text.configuration import parse

TARGET_SECONDS = 0.05
CONNECTIONS = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def text(directory: Path, port: int, balance: str, servers: list[str]) -> str:
    """Return a configuration with these `server` lines."""
    lines = "".join(f"    server {each}\n" for each in servers)
    return (
        f"global\n    stats socket {directory}/stats.sock level admin\n"
        "defaults\n    mode http\n    timeout client 1m\n    timeout server 1m\n    timeout connect 1s\n"
        f"frontend front\n    bind 127.0.0.1:{port}\n    http-request return status 200\n"
        f"backend web\n    balance {balance}\n{lines}"
    )


def server(number: int, port: int = 80, weight: int = 1) -> str:
    """Return a server."""
    address = f"10.{number // 60000}.{number // 250 % 240}.{number % 250 + 1}"
    return f"s{number} {address}:{port} id {number + 1} weight {weight}"


@contextmanager
def running(haproxy: Path, config: Path, port: int) -> Iterator[None]:
    """Run HAProxy."""
    with subprocess.Popen([haproxy, "-db", "-f", config], stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.01)
            yield
        finally:
            process.kill()


def send_requests(port: int, pipe: Pipe) -> None:
    """Send requests, one at a time. Each time the pipe asks, answer with the slowest since the last time."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    slowest, number = 0.0, 0
    while True:
        started = time.monotonic()
        connection = connections[number % CONNECTIONS]
        connection.sendall(REQUEST)
        connection.recv(4096)
        slowest, number = max(slowest, time.monotonic() - started), number + 1
        if pipe.poll():
            pipe.recv()
            pipe.send(slowest)
            slowest = 0.0


async def measure(haproxy: Path, servers: int, changed: int, balance: str) -> list[dict[str, object]]:
    """Return the figures of each kind of change."""
    kept = [server(number) for number in range(servers - changed)]
    last = range(servers - changed, servers)
    weight = 50
    states = {
        "": kept,
        "add": kept + [server(number) for number in last],
        "move": kept + [server(number, port=81) for number in last],
        "weigh": kept + [server(number, port=81, weight=weight) for number in last],
        "remove": kept,
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        directory, port = Path(name), free_port()
        config = directory / "haproxy.cfg"
        config.write_text(text(directory, port, balance, kept))
        with running(haproxy, config, port):
            ours, theirs = multiprocessing.Pipe()
            client = multiprocessing.get_context("fork").Process(target=send_requests, args=(port, theirs), daemon=True)
            client.start()

            async def slowest() -> float:
                ours.send(None)
                return await asyncio.to_thread(ours.recv)

            live = LiveServers(directory / "stats.sock", asyncio.Lock(), structlog.get_logger())
            running_text = parse(config.read_text())
            live.started(running_text)
            async with connect(directory / "stats.sock") as connection:
                worker = await connection.worker()
            try:
                for kind, lines in list(states.items())[1:]:
                    wanted = parse(text(directory, port, balance, lines))
                    plan = make_plan(running_text, wanted, worker.version, {})
                    if not isinstance(plan, Plan):
                        rows.append({"kind": kind, "reload": plan.reason})
                        break
                    changes = Changes(plan, worker, frozenset(step.key for step in plan.steps))
                    await slowest()
                    started = time.monotonic()
                    await live.execute(changes)
                    seconds = time.monotonic() - started
                    during = await slowest()
                    await asyncio.sleep(seconds)
                    rows.append(figures(kind, seconds, plan.seconds, during, await slowest()))
                    running_text = wanted
                await live.stop()
                await slowest()
                started = time.monotonic()
                async with connect(directory / "stats.sock") as connection:
                    for key in live.waiting:
                        await connection.ask(delete(key))
                seconds = time.monotonic() - started
                during = await slowest()
                await asyncio.sleep(seconds)
                rows.append(figures("delete", seconds, 0.0, during, await slowest()))
            finally:
                client.kill()
                client.join()
    return rows


def figures(kind: str, seconds: float, estimated: float, during: float, without: float) -> dict[str, object]:
    """Return a row of the table."""
    return {
        "kind": kind,
        "seconds": round(seconds, 3),
        "estimated": round(estimated, 3),
        "slowest request ms": round(1000 * during, 1),
        "without a change ms": round(1000 * without, 1),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--changed", type=int, default=1_000)
    parser.add_argument("--balance", nargs="+", default=["roundrobin", "random"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    programs = {
        Path(found) for found in (shutil.which("haproxy", path="/usr/sbin:/usr/bin"), find_program("haproxy")) if found
    }
    if wheel := wheel_program("haproxy"):
        programs.add(wheel)
    rows = []
    for program in sorted(programs):
        for servers in arguments.servers:
            for balance in arguments.balance:
                changed = min(arguments.changed, servers)
                found = asyncio.run(measure(program, servers, changed, balance))
                rows += [{"program": str(program), "servers": servers, "balance": balance, **row} for row in found]
                if not arguments.json:
                    print(f"{program}: {changed} of {servers} servers, {balance}")
                    for row in found:
                        print("    " + "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
