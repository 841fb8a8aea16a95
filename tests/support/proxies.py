"""The TCP proxy as a daemon under load: for tests that run it as a person would."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ambassadors import TIMEOUT, Named, name_at
from daemons import Daemon, Starter

from discovery.testing import eventually_sync, within

Serve = Callable[..., Named]


def answers(port: int, name: str) -> None:
    eventually_sync(lambda: name_at(port) == name, f"{name} to be who answers", TIMEOUT)


def proxy(
    start: Starter, url: str, *assignments: str, run_dir: Path | None = None, replace: Path | None = None
) -> Daemon:
    """The daemon with `--set tcpproxy.` these, in place of the one of the run directory `replace`; once it is ready."""
    sets = [part for each in assignments for part in ("--set", f"tcpproxy.{each}")]
    replacing = ["--replace"] if replace else []
    daemon = start("--registry", url, "--plugin", "tcpproxy", *sets, *replacing, run_dir=run_dir or replace)
    eventually_sync(daemon.is_ready, "the daemon to be ready", TIMEOUT)
    return daemon


def figure(daemon: Daemon, name: str, labels: str = "") -> float:
    """The sum of the figures whose line has this name and these labels."""
    lines = daemon.get("/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith(f"discovery_tcpproxy_{name}{{") and labels in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


PAUSE = 0.005
"""Seconds between a client's connections, which leave the processors to what is tested."""


class Load:
    """Clients that connect, say something and hang up, again and again; what failed, and why. None tries twice."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._port = port
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for each in self._threads:
            each.start()
        try:
            self.goes_on()
            yield self
            self.goes_on()
        finally:
            self._end.set()
            for each in self._threads:
                each.join(within(TIMEOUT))

    def goes_on(self, count: int = 50) -> None:
        """Wait until so many more have been served."""
        before = self.done
        eventually_sync(lambda: self.done >= before + count, f"{count} more connections", TIMEOUT)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=within(TIMEOUT)) as client:
                    client.sendall(b"ping")
                    with client.makefile("rb") as answer:
                        name, echo = answer.readline(), answer.read(4)
                        client.shutdown(socket.SHUT_WR)  # not before: it would be taken to have left if it is held
                        if not name or echo != b"ping" or answer.read():
                            raise ConnectionError(f"{name + echo!r} was answered")
                self.done += 1
            except OSError as error:
                self.failed.append(repr(error))
            self._end.wait(PAUSE)
