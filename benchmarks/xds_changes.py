"""The consumer `xds`: from a put to the first request over Envoy and from a gRPC program, many endpoints, many streams.

The daemon is what a user starts, with etcd; the time of the watch alone (from the put until a client of etcd has seen
the change) is measured beside it and subtracted. The prototype was an ADS server of 60 lines without a registry. The
streams are those of simulated Envoys, over the delta protocol, each on a connection of its own; their server has one
core, and they have another. Envoy is that of `make envoy`. (A file of the name xds.py would hide the package `xds`.)

    python benchmarks/xds_changes.py [--changes N] [--streams N] [--json]
"""

import argparse
import asyncio
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from _xds_streams import Driven, many_streams, milliseconds

from discovery import Backend
from discovery.registry import Lease, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import free_port
from discovery_xds import bootstrap

sys.path.append(str(Path(__file__).parents[1] / "plugins/xds/tests/support"))

PROTOTYPE = {"envoy": 3.0, "grpc": 1.7}
"""Milliseconds from a push to the first request: the median of the prototype, without a registry."""
FACTOR = 1.5
"""How much longer the product may take, without the watch."""
MOST_SECONDS_OF_MANY = 1.0
ENDPOINTS = 10_000
TURNS = 5
"""Runs of the consumer and of the prototype, one after the other."""
PROGRAM = """
import sys, time, grpc
channel = grpc.insecure_channel("xds:///web")
call = channel.unary_unary("/test.Who/Are")
for line in sys.stdin:
    while call(b"", timeout=30).decode() != line.strip():
        pass
    print(time.time(), flush=True)
"""


class WebOrigin(BaseHTTPRequestHandler):
    """A web server that answers with its name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer in one packet."""
        name = self.server.name.encode()  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))

    def log_message(self, *_: object) -> None:
        """Be silent."""


class GrpcOrigin(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A gRPC server that answers with its name."""

    def __init__(self, name: str) -> None:
        """Keep the name."""
        self.name = name

    def service(self, handler_call_details: Any) -> Any:
        """Answer every call."""
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.name.encode())


def web_origin(name: str) -> int:
    """Serve for the rest of the process, and return the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), WebOrigin)
    server.name = name  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def grpc_origin(name: str, stopping: list[Any]) -> int:
    """Serve until `stopping` is stopped, and return the port."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(GrpcOrigin(name),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stopping.append(server)
    return port


@contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and end the command."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


@contextmanager
def envoy(directory: Path, server: str, *, sotw: bool = False) -> Iterator[int]:
    """Run Envoy, which follows the server, and return its admin port."""
    from envoy_program import install

    admin = free_port()
    file = directory / "envoy.yaml"
    file.write_text(bootstrap.envoy(server, bootstrap.Node("envoy"), admin=f"127.0.0.1:{admin}", sotw=sotw))
    command = [str(install()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    with child(command):
        yield admin


def first_answer(port: int, name: str) -> float:
    """Return when the first request was answered by the backend `name`; requests follow each other at once."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with suppress(OSError, http.client.HTTPException):
            while True:
                connection.request("GET", "/")
                if connection.getresponse().read() == name.encode():
                    return time.time()


def quartile(seconds: list[float]) -> float:
    """Return the time that a quarter does not exceed."""
    return statistics.quantiles(seconds, n=4)[0]


async def swaps(lease: Lease, registry: Any, ports: tuple[int, int], changes: int, asked: Any) -> dict[str, Any]:
    """Swap the backend, and measure until the first answer of the new backend and until the watch tells the swap."""
    took, watched = [], []
    await lease.put(Backend("web", "a", "127.0.0.1", ports[0]))
    await asyncio.to_thread(asked, "a")
    changed = asyncio.Event()

    async def watch() -> None:
        async for _ in registry.watch():
            changed.set()

    watching = asyncio.ensure_future(watch())
    try:
        await changed.wait()  # for the listing, with which a watch begins
        for number in range(changes):
            name, port = (("b", ports[1]), ("a", ports[0]))[number % 2]
            asking = asyncio.ensure_future(asyncio.to_thread(asked, name))
            await asyncio.sleep(0.02)  # the requests go on
            changed.clear()
            begun = time.time()
            putting = asyncio.ensure_future(lease.put(Backend("web", "a", "127.0.0.1", port)))
            await changed.wait()
            watched.append(time.time() - begun)
            took.append(await asking - begun)
            await putting
    finally:
        watching.cancel()
    return {"put_to_request": milliseconds(took), "watch": milliseconds(watched)}


async def end_to_end(directory: Path, changes: int) -> dict[str, Any]:
    """Measure with the daemon, over Envoy and from a gRPC program."""
    found: dict[str, Any] = {}
    stopping: list[Any] = []
    web = web_origin("a"), web_origin("b")
    rpc = grpc_origin("a", stopping), grpc_origin("b", stopping)
    with EmbeddedEtcd() as etcd:
        server, bind = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        command = [
            sys.executable, "-m", "discovery", "run", "--registry", etcd.url, "--plugin", "xds", "--admin", "off",
            "--set", f"xds.listen={server}", "--set", f"xds.bind={bind}", "--set", "xds.services.web.check=false",
            "--run-dir", str(directory / "run"), "--state-dir", str(directory / "state"), "--log-level", "error",
        ]  # fmt: skip
        registry = open_registry(etcd.url)
        lease = await registry.open_lease("benchmark", 600)
        with child(command), envoy(directory, server):
            port = int(bind.rpartition(":")[2])
            found["envoy"] = await swaps(lease, registry, web, changes, lambda name: first_answer(port, name))
            with program(directory, server) as ask:
                found["grpc"] = await swaps(lease, registry, rpc, changes, ask)
        await registry.close()
    for each in stopping:
        each.stop(None)
    for name, prototype in PROTOTYPE.items():
        own = found[name]["put_to_request"]["p50"] - found[name]["watch"]["p50"]
        found[name] |= {"prototype_push_to_request": prototype, "without_watch": round(own, 2)}
        found[name]["ok"] = own <= FACTOR * prototype
    return found


@contextmanager
def program(directory: Path, server: str) -> Iterator[Callable[[str], float]]:
    """Run a gRPC program, and yield a function that waits for the first answer of a backend and returns its time."""
    variables = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap.grpc(server, bootstrap.Node("program"))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with child([sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, cwd=directory, **pipes) as process:

        def ask(name: str) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield ask


async def pushes(driven: Driven, ports: tuple[int, int], changes: int, asked: Callable[[str], float]) -> list[float]:
    """Swap the backend without a registry, and measure until the first answer of the new backend."""
    took = []
    await driven.apply(1, [Backend("web", "a", "127.0.0.1", ports[0])])
    await asyncio.to_thread(asked, "a")
    for number in range(changes):
        name, port = (("b", ports[1]), ("a", ports[0]))[number % 2]
        asking = asyncio.ensure_future(asyncio.to_thread(asked, name))
        await asyncio.sleep(0.02)  # the requests go on
        begun = time.time()
        await driven.apply(number + 2, [Backend("web", "a", "127.0.0.1", port)])
        took.append(await asking - begun)
    return took


async def beside_the_prototype(directory: Path, changes: int) -> dict[str, Any]:
    """Measure pushes of the consumer and of the prototype in turns: what a busy machine adds, both have.

    The ratio is that of the quicker quarters, which the machine has disturbed least.
    """
    stopping: list[Any] = []
    web = web_origin("a"), web_origin("b")
    rpc = grpc_origin("a", stopping), grpc_origin("b", stopping)
    took: dict[str, dict[str, list[float]]] = {"envoy": {}, "grpc": {}}
    for turn in range(2 * TURNS):
        name = ("prototype", "consumer")[turn % 2]
        server, bind = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        options = {"bind": bind, "services": {"web": {"check": False}}}
        driven = Driven(directory, server, prototype=name == "prototype", **options)
        await driven.consumer.setup()
        port, count = int(bind.rpartition(":")[2]), changes // TURNS
        with envoy(directory, server, sotw=True):
            asked = partial(first_answer, port)
            took["envoy"].setdefault(name, []).extend(await pushes(driven, web, count, asked))
        with program(directory, server) as asked:
            took["grpc"].setdefault(name, []).extend(await pushes(driven, rpc, count, asked))
        await driven.consumer.teardown()
    for each in stopping:
        each.stop(None)
    found = {}
    for client, both in took.items():
        ratio = quartile(both["consumer"]) / quartile(both["prototype"])
        found[client] = {name: milliseconds(each) for name, each in both.items()}
        found[client] |= {"ratio": round(ratio, 2), "ok": ratio <= FACTOR}
    return found


async def many_endpoints(directory: Path) -> dict[str, Any]:
    """Measure from `apply` of many backends until Envoy has confirmed them, and then the change of one."""
    server, bind = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    driven = Driven(directory, server, bind=bind, services={"web": {"check": False}})
    backends = [Backend("web", f"b{n}", f"10.0.{n >> 8}.{n & 255}", 80) for n in range(ENDPOINTS)]
    await driven.consumer.setup()
    try:
        await driven.apply(1, backends[:1])
        with envoy(directory, server):
            await driven.until_live(1, 1)
            took = []
            for revision, state in ((2, backends), (3, [*backends[1:], Backend("web", "x", "10.9.9.9", 80)])):
                begun = time.perf_counter()
                await driven.apply(revision, state)
                await driven.until_live(revision, 1)
                took.append(round(time.perf_counter() - begun, 3))
    finally:
        await driven.consumer.teardown()
    return {"endpoints": ENDPOINTS, "live_seconds": took[0], "one_more": took[1], "ok": took[0] < MOST_SECONDS_OF_MANY}


def main() -> None:
    """Print the figures beside their bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found: dict[str, Any] = {
            "load": os.getloadavg()[0],
            **asyncio.run(end_to_end(Path(directory), options.changes)),
        }
        found["push"] = asyncio.run(beside_the_prototype(Path(directory), options.changes))
        found["many_endpoints"] = asyncio.run(many_endpoints(Path(directory)))
    found["many_streams"] = many_streams(options.streams, min(options.changes, 20))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, prototype in PROTOTYPE.items():
        each, whole = found[name], found[name]["put_to_request"]
        print(
            f"{name}: put to first request p50 {whole['p50']} ms, p95 {whole['p95']} ms;"
            f" the watch p50 {each['watch']['p50']} ms; without it {each['without_watch']} ms, at most"
            f" {FACTOR} times the prototype's {prototype} ms: {'ok' if each['ok'] else 'TOO SLOW'};"
            f" on this machine now the prototype takes {found['push'][name]['prototype']['p50']} ms"
        )
    for name in ("push", "many_endpoints", "many_streams"):
        print(f"{name}: {found[name]}")


if __name__ == "__main__":
    main()
