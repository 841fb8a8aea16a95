"""Clients that ask a proxy all the time, over kept connections, and count what fails."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from typing import Self

from discovery.testing import eventually_sync, within


class Load:
    """The outcome of the clients so far: numbers of good answers, and of failures by their kind."""

    def __init__(self, port: int) -> None:
        self.good = 0
        self.failures: Counter[str] = Counter()
        self._port = port
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Ask until told to stop. A kept connection that the proxy has closed is opened again, as RFC 9112 says."""
        connection, fresh = self._connection(), True
        while not self._stop.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                self._count("" if answer.status == 200 else str(answer.status))
                fresh = False
                if answer.will_close:
                    connection.close()
                    fresh = True
            except (RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                connection.close()
                if fresh:
                    self._count(type(error).__name__)
                connection, fresh = self._connection(), True
            except (HTTPException, OSError) as error:
                self._count(type(error).__name__)
                connection.close()
                connection, fresh = self._connection(), True
        connection.close()

    def _connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._port, timeout=within(10))

    def _count(self, failure: str) -> None:
        with self._lock:
            if failure:
                self.failures[failure] += 1
            else:
                self.good += 1

    def await_more(self, count: int) -> None:
        """Wait for `count` more good answers."""
        before = self.good
        eventually_sync(lambda: self.good >= before + count, f"{count} more answers")

    def stop(self) -> None:
        """Tell the clients to stop."""
        self._stop.set()

    def __enter__(self) -> Self:
        return self


@contextmanager
def load(port: int, clients: int = 4) -> Iterator[Load]:
    """Load a proxy for a block."""
    outcome = Load(port)
    threads = [threading.Thread(target=outcome.run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield outcome
    finally:
        outcome.stop()
        for thread in threads:
            thread.join()
