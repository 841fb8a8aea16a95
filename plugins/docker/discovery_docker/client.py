"""A client of an engine's HTTP API, on the standard library: only GET, and a connection for each request.

Docker's SDK for Python takes 7 MiB of memory and 0.2 s of a start, for the six requests that a provider makes.
"""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit


class ApiError(Exception):
    """An engine's answer other than success: its `status`, and its `explanation`, which may have several lines."""

    def __init__(self, status: int, explanation: str) -> None:
        """Keep the arguments."""
        super().__init__(f"{explanation or 'no reason given'} (status {status})")
        self.status = status
        self.explanation = explanation

    @property
    def is_client_error(self) -> bool:
        """True if the engine refuses the request, False if the engine has failed."""
        return HTTPStatus.BAD_REQUEST <= self.status < HTTPStatus.INTERNAL_SERVER_ERROR


class NotFoundError(ApiError):
    """The engine does not have the thing."""


class AnswerError(OSError):
    """The answer is none of an engine: not HTTP, or not JSON."""


class Answer(NamedTuple):
    """The status, the headers and the body of an answer."""

    status: int
    headers: Message
    text: str


class Client:
    """Requests to the engine at `url`. All methods block, raise OSError, and may be called by several threads."""

    def __init__(self, url: str, version: str, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        """Keep the arguments; no I/O.

        `url` is as `discovery_docker.sockets.checked_url` returns it. `version` is that of the API. `timeout` is in
        seconds, for each step of an answer.
        """
        self.timeout = timeout
        self._url = urlsplit(url)
        self._version = version
        self._tls = tls

    def ping(self) -> Answer:
        """Return the answer to a ping. Raises ApiError."""
        answer = self.ask("/_ping")
        if answer.status != HTTPStatus.OK:
            raise _error(answer)
        return answer

    def info(self) -> Any:
        """Return the document of `docker info`. Raises ApiError."""
        return self.get(self._versioned("/info"))

    def containers(self) -> Any:
        """Return the list of `docker ps`. Raises ApiError."""
        return self.get(self._versioned("/containers/json"))

    def inspect_container(self, id_: str) -> Any:
        """Return the document of `docker inspect`. Raises ApiError."""
        return self.get(self._versioned(f"/containers/{quote(id_)}/json"))

    def inspect_image(self, name: str) -> Any:
        """Return the document of `docker image inspect`. Raises ApiError."""
        return self.get(self._versioned(f"/images/{quote(name, safe='/:')}/json"))

    def inspect_service(self, id_: str) -> Any:
        """Return the document of `docker service inspect`. Raises ApiError."""
        return self.get(self._versioned(f"/services/{quote(id_)}"))

    def events(self, since: int, filters: Mapping[str, list[str]]) -> "EventStream":
        """Return the events since that time, seconds since the epoch on the engine's clock. Raises ApiError."""
        query = urlencode({"since": since, "filters": json.dumps(filters)})
        connection = self._connection(self.timeout)
        try:
            with _answers():
                connection.request("GET", self._path(self._versioned(f"/events?{query}")))
                own_socket: socket.socket = connection.sock  # a response that ends the connection takes it away
                response = connection.getresponse()
                if response.status != HTTPStatus.OK:
                    raise _error(_read(response))
                own_socket.settimeout(None)
        except BaseException:  # raised again; the connection is closed in any case
            connection.close()
            raise
        return EventStream(connection, own_socket, response)

    def get(self, path: str, timeout: float | None = None) -> Any:
        """Return the document at `path`, which names the version of the API itself. Raises ApiError.

        `timeout` takes the place of the client's own.
        """
        answer = self.ask(path, timeout)
        if answer.status != HTTPStatus.OK:
            raise _error(answer)
        try:
            return json.loads(answer.text)
        except ValueError:
            raise AnswerError("the answer is not JSON") from None

    def ask(self, path: str, timeout: float | None = None) -> Answer:
        """Return the answer to a GET of `path`, whatever its status; the arguments are those of `get`."""
        connection = self._connection(self.timeout if timeout is None else timeout)
        try:
            with _answers():
                connection.request("GET", self._path(path))
                return _read(connection.getresponse())
        finally:
            connection.close()

    def _versioned(self, path: str) -> str:
        return f"/v{self._version}{path}"

    def _path(self, path: str) -> str:
        return path if self._url.scheme == "unix" else self._url.path.rstrip("/") + path

    def _connection(self, timeout: float) -> HTTPConnection:
        if self._url.scheme == "unix":
            return _UnixConnection("/" + (self._url.netloc + self._url.path).lstrip("/"), timeout)
        host = self._url.hostname or ""
        if self._tls is not None:
            return HTTPSConnection(host, self._url.port, timeout=timeout, context=self._tls)
        return HTTPConnection(host, self._url.port, timeout=timeout)


class EventStream:
    """The events of an engine, as they come, on one thread; `close` may be called by another."""

    def __init__(self, connection: HTTPConnection, own_socket: socket.socket, response: HTTPResponse) -> None:
        """Keep the arguments."""
        self._connection = connection
        self._socket = own_socket
        self._response = response

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Yield the events until the connection ends, and close it. Raises OSError."""
        try:
            with _answers():
                while line := self._response.readline():
                    if line.strip():
                        yield _event(line)
        finally:
            self._response.close()
            self._connection.close()

    def close(self) -> None:
        """End the stream, also while its thread waits for an event, and also if the engine hangs."""
        with suppress(OSError):  # the connection has ended
            self._socket.shutdown(socket.SHUT_RDWR)


class _UnixConnection(HTTPConnection):
    """HTTP on the socket at a path."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = path

    def connect(self) -> None:
        """Connect to the socket; called by the first request. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


@contextmanager
def _answers() -> Iterator[None]:
    """Raise what is wrong with an answer as an OSError."""
    try:
        yield
    except OSError:  # also RemoteDisconnected
        raise
    except IncompleteRead:
        raise ConnectionError("the answer is cut off") from None
    except HTTPException as error:
        raise AnswerError(f"the answer is not HTTP: {type(error).__name__} {error}") from error


def _read(response: HTTPResponse) -> Answer:
    return Answer(response.status, response.headers, response.read().decode(errors="replace"))


def _error(answer: Answer) -> ApiError:
    try:
        explanation = str(json.loads(answer.text)["message"])
    except (ValueError, LookupError, TypeError):
        explanation = answer.text.strip()
    kind = NotFoundError if answer.status == HTTPStatus.NOT_FOUND else ApiError
    return kind(answer.status, explanation)


def _event(line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise AnswerError("an event is not an object of JSON")
    return event
