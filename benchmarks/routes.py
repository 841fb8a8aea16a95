"""CPU time of HAProxy for a request on an address that many services share, by host name.

HAProxy has one thread and answers itself, so that the figures are HAProxy's whole work for a request. Compared are the
map of routes, which the built-in template uses, the `use_backend ... if` lines of a user's own template, and an address
of one service, which needs no route. The requests ask for the service whose condition is last, and for a host that no
service has. The least of several trials is the one that a busy machine disturbed least.

    python benchmarks/routes.py [--services N] [--trials N] [--json]
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from discovery import Snapshot
from discovery.system.embedded import find_program
from discovery.testing import free_port
from discovery.toolkit import wheel_program
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render

TARGET_MICROSECONDS = 50.0
BATCH = 50
"""Requests that are sent at once on a connection."""
CONDITIONS = """
{% extends "builtin/haproxy.cfg.j2" %}
{% block frontend %}
frontend {{ frontend.name }}
    bind {{ frontend.binds[0].address }}
    http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)
{% for route in frontend.routes %}
    use_backend {{ route.service }} {{ route.condition }}
{% endfor %}
    default_backend {{ frontend.default }}

{% endblock %}
"""


def configuration(directory: Path, port: int, services: int, template: Path | None) -> Path:
    """Write the configuration, and return its path."""
    answer = {"bind": f"127.0.0.1:{port}", "backend_lines": "http-request return status 200"}
    hosts = {f"s{number}": {**answer, "hosts": f"host{number:06}.example.com"} for number in range(services)}
    config = HAProxyConfig.model_validate(
        {"services": {**hosts, "rest": answer}, "global_lines": "nbthread 1", "template": template}
    )
    rendered = render(config, Snapshot.of(1, []), Runtime(route_map=directory / "haproxy.routes.map"), {})
    for path, contents in rendered.maps.items():
        path.write_text(contents)
    path = directory / "haproxy.cfg"
    path.write_text(rendered.text)
    return path


@contextmanager
def running(haproxy: Path, config: Path, port: int) -> Iterator[tuple[int, socket.socket]]:
    """Run HAProxy. Yield its pid and a connection."""
    with subprocess.Popen([haproxy, "-db", "-f", config], stderr=subprocess.DEVNULL) as process:
        try:
            connection = None
            while connection is None and process.poll() is None:
                with suppress(ConnectionRefusedError):
                    connection = socket.create_connection(("127.0.0.1", port))
                time.sleep(0.01)
            if connection is None:
                raise SystemExit(f"HAProxy does not start: {haproxy} -c -f {config} has the reason")
            with connection:
                yield process.pid, connection
        finally:
            process.kill()


def microseconds(pid: int, connection: socket.socket, host: str, requests: int) -> float:
    """CPU time of the process for a request for the host."""
    before = cpu_nanoseconds(pid)
    batch = f"GET /some/path HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() * BATCH
    for _ in range(requests // BATCH):
        connection.sendall(batch)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < BATCH or not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1 << 20)
    return (cpu_nanoseconds(pid) - before) / 1000 / (requests // BATCH * BATCH)


def cpu_nanoseconds(pid: int) -> int:
    """CPU time that the threads of a process have had."""
    return sum(int(thread.read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def main() -> None:
    """Run, and print a table or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=3000)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    programs = {"on PATH": shutil.which("haproxy"), "wheel": wheel_program("haproxy")}
    found = {name: Path(program) for name, program in programs.items() if program} or {"": find_program("haproxy")}
    hosts = {"last": f"host{options.services - 1:06}.example.com", "unknown": "host.example.org"}
    figures: dict[str, float] = {"services": options.services, "target_microseconds": TARGET_MICROSECONDS}
    with tempfile.TemporaryDirectory() as temporary:
        conditions = Path(temporary, "conditions.cfg.j2")
        conditions.write_text(CONDITIONS)
        for name, haproxy in found.items():
            for way, count, template, requests in (
                ("no route", 0, None, 10_000),
                ("map", options.services, None, 10_000),
                ("conditions", options.services, conditions, 500),
            ):
                port = free_port()
                config = configuration(Path(temporary), port, count, template)
                with running(haproxy, config, port) as (pid, connection):
                    for which, host in hosts.items():
                        trials = [microseconds(pid, connection, host, requests) for _ in range(options.trials)]
                        figures[f"{name}, {way}, {which} host"] = round(min(trials), 1)
    figures["load"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"microseconds of HAProxy's CPU for a request, {options.services} services, load {figures['load']}")
    for label, figure in figures.items():
        if "host" in label:
            print(f"  {label:32} {figure:8.1f}")
    print(f"target with a map: {TARGET_MICROSECONDS:g}")


if __name__ == "__main__":
    main()
