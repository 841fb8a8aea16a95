"""What the verification of servers costs this process and HAProxy, and how long HAProxy's clients wait meanwhile.

A HAProxy with many servers answers requests itself, one after another on a kept connection, while its servers are
verified without a pause. Compared are the slowest requests with and without verification. CPU is that of one
verification: the first, which compares each server, and the next, in which nothing has changed. Two threads of HAProxy
serve, as on a machine with two cores; a look for the worker's pid, once a second, is measured by itself.

    python benchmarks/verification.py [--servers N ...] [--per-section N] [--rounds N]
"""

import argparse
import asyncio
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import structlog

from discovery.testing import free_port
from discovery.toolkit import wheel_program
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.verifying import Verifier
from discovery_haproxy.text.configuration import parse

GLOBAL = """\
global
    description cfg-0-0
    nbthread 2
    fd-hard-limit 10000
    stats socket {directory}/stats.sock mode 600 level admin
defaults
    mode http
    timeout client 1m
    timeout server 1m
    timeout connect 5s
frontend front
    bind 127.0.0.1:{port}
    http-request return status 200
"""


def configuration(directory: Path, port: int, servers: int, per_section: int) -> str:
    """Return a configuration with this many servers, which are never connected to."""
    parts = [GLOBAL.format(directory=directory, port=port)]
    for section in range(0, servers, per_section):
        parts.append(f"backend service-{section}\n    balance roundrobin\n    default-server maxconn 100\n")
        parts += (
            f"    server backend-{number} 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:8080"
            f" id {number + 1} weight 1\n"
            for number in range(section, min(section + per_section, servers))
        )
    return "".join(parts)


@contextmanager
def running(haproxy: Path, config: Path, port: int) -> Iterator[int]:
    """Run HAProxy, and yield its pid when it serves."""
    with subprocess.Popen([haproxy, "-db", "-f", config], stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield process.pid
        finally:
            process.kill()


def ask(port: int, pipe: Pipe) -> None:
    """Send requests until told to stop, and send the times of all requests in seconds."""
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        pipe.send("ready")
        while not pipe.poll():
            started = time.perf_counter()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1000)
            times.append(time.perf_counter() - started)
            time.sleep(0.001)
    pipe.send(times)


async def slowest(port: int, work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the slowest request, and the time that 99.9 % of the requests do not exceed, in milliseconds."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=ask, args=(port, theirs))
    process.start()
    await asyncio.to_thread(ours.recv)
    await work()
    ours.send(None)
    times = sorted(await asyncio.to_thread(ours.recv))
    process.join()
    return 1000 * times[-1], 1000 * times[len(times) * 999 // 1000]


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(haproxy: Path, servers: int, per_section: int, rounds: int) -> None:
    """Measure with one number of servers, and print the figures."""
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        directory, port = Path(name), free_port()
        text = configuration(directory, port, servers, per_section)
        (directory / "haproxy.cfg").write_text(text)
        with running(haproxy, directory / "haproxy.cfg", port) as pid:
            lock, log = asyncio.Lock(), structlog.get_logger()
            live = LiveServers(directory / "stats.sock", lock, log)
            live.started(parse(text))
            verifier = Verifier(live, lock, lambda: None, print, None, log)
            verifier.follow(HAProxyConfig())

            async def verify(times: int) -> tuple[float, float, float]:
                begun, ours, theirs = time.perf_counter(), time.process_time(), cpu_of(pid)
                for _ in range(times):
                    await verifier._verify()  # noqa: SLF001 - without the schedule
                return (
                    1000 * (time.perf_counter() - begun) / times,
                    1000 * (time.process_time() - ours) / times,
                    1000 * (cpu_of(pid) - theirs) / times,
                )

            first, again = await verify(1), await verify(rounds)
            looks = 100
            begun, ours = time.perf_counter(), time.process_time()
            for _ in range(looks):
                await live.worker()
            look = 1000 * (time.perf_counter() - begun) / looks, 1000 * (time.process_time() - ours) / looks
            seconds = max(2.0, again[0] * rounds / 1000)
            quiet = await slowest(port, lambda: asyncio.sleep(seconds))
            busy = await slowest(port, lambda: verify(max(rounds, round(1000 * seconds / again[0]))))
    print(
        f"{servers:7} servers: first {first[0]:.0f} ms, ours {first[1]:.0f} ms; unchanged {again[0]:.1f} ms, ours"
        f" {again[1]:.1f} ms, HAProxy's {again[2]:.1f} ms; a look {look[0]:.2f} ms, ours {look[1]:.2f} ms;"
        f" slowest request {busy[0]:.1f} ms, 99.9 % {busy[1]:.1f} ms (without verification {quiet[0]:.1f} and"
        f" {quiet[1]:.1f} ms)",
        flush=True,
    )


def main() -> None:
    """Measure with each HAProxy of this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--per-section", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = shutil.which("haproxy"), wheel_program("haproxy")
    for haproxy in map(Path, filter(None, found)):
        print(haproxy, f"load {os.getloadavg()[0]:.1f}", flush=True)
        for servers in options.servers:
            asyncio.run(measure(haproxy, servers, options.per_section, options.rounds))


if __name__ == "__main__":
    main()
