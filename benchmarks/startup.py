"""From the start of `discovery run --plugin haproxy` to the first request through it, and its memory then.

The floor is an interpreter that imports what cannot be done without (asyncio, grpc, protobuf, pydantic, typer, jinja2,
pluggy), and then HAProxy alone, started with the configuration that `discovery` wrote: it cannot start before its
configuration is known. Trials alternate; etcd runs beside them. The first start is not counted: it writes the byte code
that every later one loads. The best trial is the one that a busy machine disturbed least.

    python benchmarks/startup.py [--trials N] [--json]
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from discovery.system.embedded import EmbeddedEtcd, find_program
from discovery.testing import free_port

TARGET_SECONDS = 0.25
TARGET_MIB = 60.0
LIBRARIES = ("asyncio", "grpc.aio", "google.protobuf.message_factory", "pydantic.fields", "typer", "jinja2", "pluggy")
IMPORTS = f"import gc; gc.disable(); import {', '.join(LIBRARIES)}"


class Origin(BaseHTTPRequestHandler):
    """The backend."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Be silent."""


def answers(port: int) -> bool:
    """Whether a request through HAProxy reaches the backend."""
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    return False


def memory(pid: int) -> float:
    """The most memory that the process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The process, and when it was started."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process, begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until_it_answers(port: int, begun: float) -> float:
    """Seconds from `begun` to the first answer."""
    while not answers(port):
        if time.monotonic() > begun + 60:
            raise SystemExit("no answer within 60 s")
        time.sleep(0.002)
    return time.monotonic() - begun


def main() -> None:
    """Run, and print a table or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    Thread(target=server.serve_forever, daemon=True).start()
    seconds: list[float] = []
    floor: list[float] = []
    imports: list[float] = []
    mib: list[float] = []
    os.environ.pop("DISCOVERY_CONFIG", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each start would compile the sources
    with EmbeddedEtcd() as etcd, tempfile.TemporaryDirectory() as temporary:
        etcd.ctl("put", "/services/web/a", f"127.0.0.1:{server.server_address[1]}")
        for trial in range(options.trials + 1):
            port = free_port()
            run_dir = Path(temporary, str(trial))
            with started(
                *(sys.executable, "-m", "discovery", "run", "--registry", f"{etcd.url}/services"),
                *("--plugin", "haproxy", "--set", f"haproxy.services.web.bind=127.0.0.1:{port}", "--admin", "off"),
                *("--run-dir", str(run_dir), "--state-dir", str(run_dir / "state")),
            ) as (process, begun):
                seconds.append(until_it_answers(port, begun))
                mib.append(memory(process.pid))
                (config,) = run_dir.rglob("haproxy.cfg")
                text = config.read_text()
            place = Path(temporary, f"floor-{trial}")
            place.mkdir()
            config = place / "haproxy.cfg"
            config.write_text(text.replace(str(run_dir), str(place)))
            (place / "haproxy").mkdir()
            with started(str(find_program("haproxy")), "-W", "-f", str(config)) as (_, begun):
                floor.append(until_it_answers(port, begun))
            begun = time.monotonic()
            subprocess.run([sys.executable, "-c", IMPORTS], check=True)
            imports.append(time.monotonic() - begun)
            if trial == 0:
                for measured in (seconds, mib, floor, imports):
                    measured.clear()
    best_floor = min(floor) + min(imports)
    figures = {
        "seconds": statistics.median(seconds),
        "best_seconds": min(seconds),
        "best_floor_seconds": best_floor,
        "best_to_floor": min(seconds) / best_floor,
        "load": os.getloadavg()[0],
        "floor_haproxy_seconds": statistics.median(floor),
        "floor_imports_seconds": statistics.median(imports),
        "mib": max(mib),
        "target_seconds": TARGET_SECONDS,
        "target_mib": TARGET_MIB,
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"to the first answer  {figures['seconds']:.3f} s, best {min(seconds):.3f} s (target {TARGET_SECONDS:g} s)")
    print(f"  HAProxy alone      {figures['floor_haproxy_seconds']:.3f} s, best {min(floor):.3f} s")
    print(f"  imports alone      {figures['floor_imports_seconds']:.3f} s, best {min(imports):.3f} s")
    print(f"  best to floor      {figures['best_to_floor']:.2f} (load {figures['load']:.1f})")
    print(f"memory then          {figures['mib']:.1f} MiB (target {TARGET_MIB:g} MiB)")


if __name__ == "__main__":
    main()
