"""A steady stream of HTTP requests, and the backend or the failure of each request."""

import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread
from types import TracebackType
from typing import Self

_HTTP_SECONDS = 5.0
"""Seconds for an answer on this machine, which takes milliseconds."""
_PAUSE = 0.01
"""Seconds between two requests of a client: some hundred requests a second without keeping a processor busy."""


class Traffic:
    """Two clients that send requests during the block: the first opens a connection for each request.

    The second keeps its connection open.
    """

    def __init__(self, port: int) -> None:
        """Send the requests to 127.0.0.1:`port`."""
        self._port = port
        self._stop = Event()
        # The backend and the failure of each request, either of which is empty. Appending is atomic.
        self._outcomes: list[tuple[str, str]] = []
        self._threads = [Thread(target=self._ask, args=(keep,)) for keep in (False, True)]

    @property
    def total(self) -> int:
        """The number of requests made."""
        return len(self._outcomes)

    @property
    def answers(self) -> Counter[str]:
        """The number of answers of each backend."""
        return Counter(backend for backend, failure in tuple(self._outcomes) if not failure)

    @property
    def failures(self) -> list[str]:
        """The reason of each failed request."""
        return [failure for _, failure in tuple(self._outcomes) if failure]

    def __enter__(self) -> Self:
        """Start both clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both clients, and wait for outstanding answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, keep: bool) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_HTTP_SECONDS)
        while not self._stop.is_set():
            outcome = ask(connection)
            self._outcomes.append(outcome)
            if outcome[1] or not keep:
                connection.close()
            time.sleep(_PAUSE)
        connection.close()


def ask(connection: HTTPConnection) -> tuple[str, str]:
    """Send a request. Return the answering backend and an empty text, or an empty text and the failure's reason."""
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
    except (OSError, HTTPException) as error:
        return "", f"{type(error).__name__}: {error}"
    if response.status != 200:
        return "", f"status {response.status}"
    return response.headers.get("X-Backend", "?"), ""
