"""Answers per second of the plugin `dns` on one core, while a service changes once per second.

dnsperf asks the daemon (`discovery run --plugin dns`, a registry of files) for the A, AAAA and SRV records of many
services, for missing names, and with EDNS. Python answers on one core at a time: the figure "per second of CPU time" is
what one core answers, and a busy machine disturbs that figure less than the rate that dnsperf sees.

    python benchmarks/dns_answers.py [--services N] [--backends N] [--seconds N] [--json]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from discovery.testing import eventually_sync, free_port

TARGET_ANSWERS = 20_000
"""Answers per second on one core."""
QUESTIONS = {
    "A": "{name}.service.internal A",
    "AAAA without records": "{name}.service.internal AAAA",
    "SRV": "_{name}._tcp.service.internal SRV",
    "missing name": "x-{name}.service.internal A",
}


@contextmanager
def daemon(registry: Path, port: int) -> Iterator[int]:
    """Run the daemon; yield its process id."""
    command = [sys.executable, "-m", "discovery", "run", "--registry", f"file://{registry}", "--plugin", "dns"]
    command += ["--set", f"dns.listen=127.0.0.1:{port}", "--admin", "off"]
    command += ["--run-dir", str(registry.parent / "run"), "--state-dir", str(registry.parent / "state")]
    log = registry.parent / "log"
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, stdout=output) as process:
        try:
            eventually_sync(lambda: answers(port) or process.poll() is not None, timeout=30)
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            yield process.pid
        finally:
            process.terminate()


def answers(port: int) -> bool:
    """Return True if the server knows a service."""
    query = dns.message.make_query("web-0.service.internal.", "A")
    with suppress(dns.exception.Timeout):
        return bool(dns.query.udp(query, "127.0.0.1", port=port, timeout=1).answer)
    return False


@contextmanager
def changes(registry: Path) -> Iterator[None]:
    """Change a backend of the first service every second."""
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.wait(1):
            number += 1
            write(registry, "web-0", 0, f"10.9.{number % 250}.1")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write(registry: Path, service: str, number: int, host: str) -> None:
    """Write the record of a backend."""
    temporary = registry / service / f".{number}.new"
    temporary.write_text(f"{host}:80")
    temporary.replace(registry / service / str(number))


def measure(port: int, pid: int, questions: Path, seconds: int, *arguments: str) -> dict[str, float]:
    """Ask for some seconds; return answers per second, by the clock and by the CPU time of the daemon."""
    before = cpu_seconds(pid)
    command = [
        "dnsperf",
        "-s",
        "127.0.0.1",
        "-p",
        str(port),
        "-d",
        str(questions),
        "-l",
        str(seconds),
        "-q",
        "200",
        "-c",
        "10",
    ]
    told = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
    used = cpu_seconds(pid) - before
    completed, lost = (int(re.findall(rf"Queries {what}: +(\d+)", told)[0]) for what in ("completed", "lost"))
    rate = float(re.findall(r"Queries per second: +([\d.]+)", told)[0])
    return {"answers_per_second": round(rate), "per_cpu_second": round(completed / used), "lost": lost}


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of a process have had."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def main() -> None:
    """Run, and print a table or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--backends", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("dnsperf") is None:
        raise SystemExit("this benchmark needs dnsperf: apt-get install dnsperf")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        registry, port = Path(temporary, "registry"), free_port()
        names = [f"web-{number}" for number in range(options.services)]
        for at, name in enumerate(names):
            (registry / name).mkdir(parents=True)
            for number in range(options.backends):
                write(registry, name, number, f"10.{at // 250}.{at % 250}.{number}")
        with daemon(registry, port) as pid, changes(registry):
            for what, form in QUESTIONS.items():
                file = Path(temporary, "questions")
                file.write_text("".join(f"{form.format(name=name)}\n" for name in names))
                for edns in ((), ("-e",)):
                    label = f"{what}, EDNS" if edns else what
                    figures[label] = measure(port, pid, file, options.seconds, *edns)
            figures["A over TCP"] = measure(port, pid, file, options.seconds, "-m", "tcp")
    if options.json:
        print(json.dumps({**figures, "load": round(os.getloadavg()[0], 1), "target": TARGET_ANSWERS}))
        return
    print(f"{options.services} services of {options.backends} backends, load {os.getloadavg()[0]:.1f}")
    print(f"{'':28}{'answers/s':>12}{'per CPU second':>16}{'lost':>6}")
    for label, row in figures.items():
        print(f"{label:28}" + f"{row['answers_per_second']:12}{row['per_cpu_second']:16}{row['lost']:6}")
    print(f"target for one core: {TARGET_ANSWERS}")


if __name__ == "__main__":
    main()
