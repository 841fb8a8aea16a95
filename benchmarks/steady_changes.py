"""Ten changes a second for a minute, with one new WebSocket a second and two loads: what is left, and what was lost.

Ours is what a user starts, with the default checks. Servers come, move, get another weight, drain and go, and their
names come back while WebSockets of their predecessors are open. At the end each WebSocket has to return a message.

    python benchmarks/steady_changes.py [--seconds N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import os
import resource
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from _haproxy import (
    Load,
    add_haproxy_argument,
    ask,
    binaries,
    busy,
    changes,
    child,
    daemon,
    origins,
    run_directory,
    status,
    verdict,
    version,
)
from aiohttp import WSMsgType, web

from discovery import Backend, State
from discovery.registry import Lease, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually, eventually_sync, free_port
from discovery_haproxy.program.process import find_processes, masters

RATE = 10
"""Changes in a second."""


def serve_websockets(port: int) -> None:
    """Return each message of each WebSocket."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        reply = web.WebSocketResponse()
        await reply.prepare(request)
        async for message in reply:
            if message.type is WSMsgType.TEXT:
                await reply.send_str(message.data)
        return reply

    application = web.Application()
    application.router.add_get("/", echo)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


async def change(lease: Lease, number: int, ports: list[int]) -> None:
    """Make the change of this number."""
    id_ = f"n{number // 5 % 3}"
    port = ports[number // 5 % len(ports)]
    another = ports[(number // 5 + 1) % len(ports)]
    match number % 5:
        case 0:
            await lease.put(Backend("web", id_, "127.0.0.1", port))
        case 1:
            await lease.put(Backend("web", id_, "127.0.0.1", another))
        case 2:
            await lease.put(Backend("web", id_, "127.0.0.1", another, weight=5))
        case 3:
            await lease.put(Backend("web", id_, "127.0.0.1", another, state=State.DRAINING))
        case _:
            await lease.delete(Backend("web", id_, "127.0.0.1", another))


async def answers(socket: aiohttp.ClientWebSocketResponse, text: str) -> bool:
    """Report whether the WebSocket returns a message."""
    try:
        await socket.send_str(text)
        return await socket.receive_str(timeout=10) == text
    except (OSError, TypeError, TimeoutError, aiohttp.ClientError):
        return False


async def steady(haproxy: str, seconds: int) -> dict[str, Any]:
    """Return the figures of one HAProxy."""
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = stack.enter_context(run_directory())
        websockets, front, admin = free_port(), free_port(), free_port()
        stack.enter_context(child(serve_websockets, websockets))
        ports = stack.enter_context(origins(haproxy, 4, websockets))
        registry = open_registry(etcd.url)
        lease = await registry.open_lease("benchmark", 600)
        for id_, port in zip("ab", ports, strict=False):
            await lease.put(Backend("web", id_, "127.0.0.1", port))
        stack.enter_context(daemon(etcd.url, directory, haproxy, {"web": f"bind = '127.0.0.1:{front}'"}, admin))
        eventually_sync(lambda: ask(front), timeout=60)
        url = f"http://127.0.0.1:{front}/"
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        sockets = [await eventually(lambda: session.ws_connect(url), "the WebSocket origin")]
        with (
            Load(url, directory, keep_alive=True) as kept,
            Load(url, directory, keep_alive=False) as closed,
        ):
            begun = time.perf_counter()
            for number in range(RATE * seconds):
                await change(lease, number, ports)
                if number % RATE == number // RATE % RATE:  # one a second, each after another kind of change
                    sockets.append(await session.ws_connect(url))
                await asyncio.sleep(max(0.0, begun + (number + 1) / RATE - time.perf_counter()))
            took = time.perf_counter() - begun
            await asyncio.sleep(0.5)
            counts = [await asyncio.to_thread(each.stop) for each in (kept, closed)]
        lost = [await answers(each, str(number)) for number, each in enumerate(sockets)].count(False)
        processes = find_processes(f"{directory / 'run' / 'edge' / 'master.sock'},mode,600")
        leading = {each.pid for each in masters(processes)}
        workers = [each.pid for each in processes if each.pid not in leading]
        figures = {
            "haproxy": version(haproxy),
            "changes_per_second": RATE * seconds / took,
            "changes": changes(admin),
            "workers": len(workers),
            "memory_mib": sum(map(resident, workers)) / 2**20,
            "waiting_for_deletion": len(status(admin, "/api/consumers/edge")["servers_waiting_for_deletion"]),
            "websockets": len(sockets),
            "lost_websockets": lost,
            "requests": sum(answered for answered, _ in counts),
            "failed_requests": sum(failed for _, failed in counts),
        }
        await asyncio.gather(*(each.close() for each in sockets))
        await session.close()
        await registry.close()
    figures["met"] = len(workers) == 1 and not lost and not figures["failed_requests"]
    return figures


def resident(pid: int) -> int:
    """Return the bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Print a few lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    add_haproxy_argument(parser)
    arguments = parser.parse_args()
    rows = [asyncio.run(steady(haproxy, arguments.seconds)) for haproxy in binaries(arguments.haproxy)]
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=2))
        return
    for row in rows:
        print(f"{row['haproxy']}: {row['changes_per_second']:.1f} changes/s for {arguments.seconds} s", end="")
        print(f" ({row['changes']['runtime']} applied at run time, {row['changes']['reload']} reloads)")
        print(f"  {row['workers']} worker(s) with {row['memory_mib']:.0f} MiB at the end", end="")
        print(f", {row['waiting_for_deletion']} servers wait for the end of their connections")
        print(f"  {row['websockets']} WebSockets, {row['lost_websockets']} lost", end="")
        print(f"; {row['requests']} requests, {row['failed_requests']} failed")
        print(f"  bar 1 worker, nothing lost, nothing failed: {verdict(row['met'])}")
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
