"""Clients that ask for a page again and again, a connection each time; failures are counted."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from discovery.testing import eventually_sync, within

_ANSWER_SECONDS = 60.0
"""Longer than a service waits for anything: a request that waits is served late, and has not failed."""
_PAUSE = 0.01


class Requests:
    """Clients of one address, and what became of their requests."""

    def __init__(self, address: tuple[str, int], host: str, *pages: str) -> None:
        """Store the address to connect to, the host name to ask for, and the pages of which one is to be served."""
        self._pages = pages or ("hello\n",)
        self.pages = Counter[str]()
        self.failed: list[str] = []
        self._address = address
        self._request = f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()

    @property
    def served(self) -> int:
        """How many requests were served."""
        return self.pages.total()

    def ask(self) -> str:
        """Ask once; return the page. Raises OSError unless the whole page is served."""
        with socket.create_connection(self._address, timeout=within(_ANSWER_SECONDS)) as client:
            client.sendall(self._request)
            return self._read(client)

    def serves(self) -> bool:
        """Ask once; return True. Raises OSError unless the whole page is served."""
        self.ask()
        return True

    def run(self, end: threading.Event) -> None:
        """Ask until the end."""
        while not end.wait(_PAUSE):
            try:
                self.pages[self.ask()] += 1
            except OSError as error:
                self.failed.append(repr(error))

    def wait_for(self, page: str, count: int = 10) -> None:
        """Wait until so many more requests were served with `page`."""
        before = self.pages[page]
        eventually_sync(lambda: self.pages[page] >= before + count, f"{page!r}; failed: {self.failed}", timeout=60)

    def begin(self) -> socket.socket:
        """Return a connection on which a request has begun, to be ended with an empty line."""
        client = socket.create_connection(self._address, timeout=within(_ANSWER_SECONDS))
        client.sendall(self._request.removesuffix(b"\r\n"))
        return client

    def finish(self, client: socket.socket) -> None:
        """End the request that `begin` has begun. Raises OSError unless the whole page is served."""
        client.sendall(b"\r\n")
        self._read(client)

    def _read(self, client: socket.socket) -> str:
        answer = bytearray()
        while part := client.recv(65536):
            answer += part
        head, _, page = answer.decode(errors="replace").partition("\r\n\r\n")
        if " 200 " not in head[:20] or page not in self._pages:
            raise ConnectionError(f"{bytes(answer[:60])!r} was answered")
        return page


class Load:
    """Requests to several places at the same time, by their names."""

    def __init__(self, places: Mapping[str, Requests]) -> None:
        """Store the places; `running` begins."""
        self.places = places

    @contextmanager
    def running(self, clients: int = 2) -> Iterator["Load"]:
        """Ask at each place, by so many clients, until the block ends."""
        end = threading.Event()
        threads = [
            threading.Thread(target=each.run, args=(end,)) for each in self.places.values() for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            end.set()
            for thread in threads:
                thread.join(within(_ANSWER_SECONDS))

    def goes_on(self, count: int = 50) -> None:
        """Wait until each place has served so many more requests."""
        before = {name: each.served for name, each in self.places.items()}
        eventually_sync(
            lambda: all(each.served >= before[name] + count for name, each in self.places.items()),
            f"{count} more requests at each of {', '.join(before)}; failed: {self.failures}",
            timeout=90,
        )

    @property
    def failures(self) -> dict[str, list[str]]:
        """What has failed, by the names of the places where something has."""
        return {name: each.failed for name, each in self.places.items() if each.failed}
