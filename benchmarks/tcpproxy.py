"""What carrying TCP costs, beside HAProxy, nginx and socat, with the direct connection as the ceiling, in one run.

HAProxy is in TCP mode with one thread, nginx has `stream` and one worker, socat forks for each connection, and ours is
what a user starts: `discovery run --plugin tcpproxy` with one worker. wrk asks an nginx behind each of them for a small
reply on kept connections, for the same on a connection each, and for bodies of 4 MiB, with 1 and with 64 clients.
Rounds alternate; a figure is the median of the rounds, a ratio the median of the rounds' ratios. CPU is that of all the
processes of the proxy alone, children that have ended included.

    python benchmarks/tcpproxy.py [--rounds N] [--seconds N] [--only NAME ...] [--json]
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery.errors import ConfigError
from discovery.system.embedded import find_program
from discovery.testing import eventually_sync, free_port

BODY = 4 << 20
BACKENDS = 3
GIB = 1 << 30
TICK = os.sysconf("SC_CLK_TCK")
MODULES = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")

ORIGIN = """\
daemon off; master_process off; pid {directory}/origin.pid; error_log {directory}/origin.err;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
    uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
    server {{ {listens} root {directory}; location = /small {{ return 200 "hello world\\n"; }} }}
}}
"""
HAPROXY = """\
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen web
    bind 127.0.0.1:{port}
    server a 127.0.0.1:{origin}
"""
NGINX = """\
load_module {module};
daemon off; worker_processes 1; pid {directory}/stream.pid; error_log {directory}/stream.err;
events {{ worker_connections 4096; }}
stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{origin}; }} }}
"""
REPORT = """\
function done(summary, latency)
    local e = summary.errors
    print(string.format("figures %d %d %d %d %d", summary.requests, summary.bytes, summary.duration,
        latency:percentile(99), e.connect + e.read + e.write + e.timeout + e.status))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk does, and the ratio to HAProxy that is needed."""

    name: str
    clients: int
    path: str
    needed: float
    headers: tuple[str, ...] = ()

    @property
    def bulk(self) -> bool:
        """Whether bytes are what counts."""
        return self.path != "/small"


LOADS = tuple(
    load
    for clients in (1, 64)
    for load in (
        Load("keep-alive", clients, "/small", 0.95),
        Load("connection each", clients, "/small", 0.85, ("-H", "Connection: close")),
        Load("4 MiB bodies", clients, "/body", 1.3),
    )
)


@dataclass(frozen=True)
class Figures:
    """What one run of wrk has shown."""

    requests: int
    bytes: int
    seconds: float
    p99: float
    errors: int
    cpu: float = 0.0

    def throughput(self, load: Load) -> float:
        """Requests per second, or GiB per second where bytes count."""
        return (self.bytes / GIB if load.bulk else self.requests) / self.seconds

    def cost(self, load: Load) -> float:
        """CPU seconds per request, or per GiB where bytes count."""
        return self.cpu / max(self.bytes / GIB if load.bulk else self.requests, 1e-9)


@dataclass(frozen=True)
class Contestant:
    """Where it listens, and its first process."""

    port: int
    pid: int | None

    def processes(self) -> dict[int, float]:
        """CPU seconds of each of its processes, with those of its children that have ended."""
        if self.pid is None:
            return {}
        stats = {}
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            stats[int(place.parent.name)] = int(fields[1]), sum(map(int, fields[11:15])) / TICK
        family = {self.pid}
        while more := {pid for pid, (parent, _) in stats.items() if parent in family} - family:
            family |= more
        return {pid: stats[pid][1] for pid in family if pid in stats}


@contextmanager
def process(*command: str | Path, log: Path) -> Iterator[int]:
    """A program, until the end of the block."""
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait()


def stream_module() -> Path:
    """nginx's module for TCP. Raises ConfigError if it is not there."""
    for directory in MODULES:
        found = Path(directory, "ngx_stream_module.so")
        if found.exists():
            return found
    raise ConfigError("nginx has no stream module: install libnginx-mod-stream")


def command_of(name: str, directory: Path, port: int, origin: int) -> list[str | Path]:
    """How a contestant is started. Raises ConfigError if it is not installed."""
    places = {"directory": directory, "port": port, "origin": origin}
    match name:
        case "HAProxy":
            config = directory / "haproxy.cfg"
            config.write_text(HAPROXY.format(**places))
            return [find_program("haproxy"), "-db", "-f", config]
        case "nginx":
            config = directory / "stream.conf"
            config.write_text(NGINX.format(module=stream_module(), **places))
            return [find_program("nginx"), "-p", directory, "-c", config]
        case "socat":
            listen = f"TCP4-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096"
            return [find_program("socat"), listen, f"TCP4:127.0.0.1:{origin},nodelay"]
        case _:
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "discovery",
                "run",
                "--plugin",
                "tcpproxy",
                "--admin",
                "off",
            ]
            command += ["--registry", f"file://{directory}/registry", "--set", f"tcpproxy.listen.web=127.0.0.1:{port}"]
            return [*command, "--run-dir", directory / "run", "--state-dir", directory / "state"]


def answers(port: int) -> bool:
    """Whether the small reply comes from there."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"GET /small HTTP/1.0\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def press(contestant: Contestant, load: Load, seconds: int, directory: Path) -> Figures:
    """One run."""
    at_rest = contestant.processes()
    command = ["wrk", "-t1", f"-c{load.clients}", f"-d{seconds}s", *load.headers, "-s", directory / "report.lua"]
    url = f"http://127.0.0.1:{contestant.port}{load.path}"
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    figures = [int(word) for word in said.partition("figures ")[2].split()]
    # What wrk leaves behind at its end is closed before the next contestant runs.
    eventually_sync(lambda: contestant.processes().keys() <= at_rest.keys(), "the proxy to come to rest")
    used = sum(contestant.processes().values()) - sum(at_rest.values())
    return Figures(figures[0], figures[1], figures[2] / 1e6, figures[3] / 1e6, figures[4], used)


@contextmanager
def origin(directory: Path) -> Iterator[list[int]]:
    """The nginx behind all of them: the ports that it listens on."""
    ports = [free_port() for _ in range(BACKENDS)]
    (directory / "body").write_bytes(os.urandom(BODY))
    (directory / "report.lua").write_text(REPORT)
    listens = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    config = directory / "origin.conf"
    config.write_text(ORIGIN.format(directory=directory, listens=listens))
    with process(find_program("nginx"), "-p", directory, "-c", config, log=directory / "origin.log"):
        eventually_sync(lambda: answers(ports[0]), "nginx to answer")
        yield ports


def register(directory: Path, backends: dict[str, int]) -> None:
    """Write records as files, as a person would."""
    place = directory / "registry" / "web"
    place.mkdir(parents=True)
    for name, port in backends.items():
        (place / name).write_text(json.dumps({"host": "127.0.0.1", "port": port}))


def start(stack: ExitStack, name: str, directory: Path, behind: int) -> Contestant:
    """A contestant that answers, until the end of the stack."""
    if name == "direct":
        return Contestant(behind, None)
    port = free_port()
    log = directory / f"{name}.log"
    pid = stack.enter_context(process(*command_of(name, directory, port, behind), log=log))
    try:
        eventually_sync(lambda: answers(port), f"{name} to answer", timeout=20)
    except AssertionError:
        raise SystemExit(f"{name} does not answer:\n{log.read_text()}") from None
    return Contestant(port, pid)


NAMES = ("direct", "HAProxy", "nginx", "socat", "ours")


def compare(names: list[str], rounds: int, seconds: int) -> dict[Load, dict[str, list[Figures]]]:
    """Every contestant under every load, round by round."""
    results: dict[Load, dict[str, list[Figures]]] = {load: {} for load in LOADS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="discovery-bench-")))
        behind = stack.enter_context(origin(directory))[0]
        register(directory, {"a": behind})
        contestants = {}
        for name in names:
            try:
                contestants[name] = start(stack, name, directory, behind)
            except ConfigError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        for number in range(rounds):
            for load in LOADS:
                order = list(contestants)
                for name in order[number % len(order) :] + order[: number % len(order)]:
                    figures = press(contestants[name], load, seconds, directory)
                    results[load].setdefault(name, []).append(figures)
    return results


def rows(results: dict[Load, dict[str, list[Figures]]]) -> Iterator[dict[str, Any]]:
    """The medians, and how they stand to HAProxy's."""
    for load, by_name in results.items():
        for name, runs in by_name.items():
            throughputs = [run.throughput(load) for run in runs]
            ratio = None
            if "HAProxy" in by_name:
                pairs = zip(throughputs, by_name["HAProxy"], strict=True)
                ratio = statistics.median(mine / theirs.throughput(load) for mine, theirs in pairs)
            yield {
                "load": load.name,
                "clients": load.clients,
                "contestant": name,
                "bulk": load.bulk,
                "throughput": statistics.median(throughputs),
                "p99_ms": 1e3 * statistics.median(run.p99 for run in runs),
                "cpu": statistics.median(run.cost(load) for run in runs),
                "errors": sum(run.errors for run in runs),
                "ratio": ratio,
                "needed": load.needed if name == "ours" and ratio is not None else None,
            }


def show(table: list[dict[str, Any]]) -> None:
    """A table that Markdown understands, too."""
    print(
        f"| {'load':22} | {'':8} | {'throughput':>13} | {'p99':>9} | {'CPU of the proxy':>16} |"
        f" {'of HAProxy':>10} | needed       |"
    )
    print("|---|---|--:|--:|--:|--:|---|")
    for row in table:
        load = f"{row['load']}, {row['clients']} client{'s' if row['clients'] > 1 else ''}"
        rate = f"{row['throughput']:.2f} GiB/s" if row["bulk"] else f"{row['throughput']:,.0f}/s"
        cpu = f"{row['cpu']:.2f} s/GiB" if row["bulk"] else f"{1e6 * row['cpu']:.0f} µs"
        cpu = "" if row["contestant"] == "direct" else cpu
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        needed = "" if row["needed"] is None else f"{row['needed']:.2f}, " + ("met" if met(row) else "NOT met")
        print(
            f"| {load:22} | {row['contestant']:8} | {rate:>13} | {row['p99_ms']:>6.2f} ms | {cpu:>16} |"
            f" {ratio:>10} | {needed:12} |" + (f" {row['errors']} errors" if row["errors"] else "")
        )


def met(row: dict[str, Any]) -> bool:
    """Whether the ratio is as needed, to two places."""
    return bool(round(row["ratio"], 2) >= row["needed"])


def raise_limit() -> None:
    """As many open files as the machine allows, for everything that is started from here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="repeatable; default: all of them")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    raise_limit()
    table = list(rows(compare(arguments.only or list(NAMES), arguments.rounds, arguments.seconds)))
    if arguments.json:
        print(json.dumps(table, indent=2))
    else:
        show(table)


if __name__ == "__main__":
    main()
