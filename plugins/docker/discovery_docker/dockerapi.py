"""Requests to a Docker engine by the SDK: off the event loop, with timeouts, with errors that name a remedy."""

import asyncio
import grp
import os
import pwd
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar
from urllib.parse import urlsplit

from discovery.toolkit import container_id
from discovery_docker.sdk import (
    MINIMUM_DOCKER_API_VERSION,
    APIError,
    DockerException,
    TLSConfig,
    docker,
    version_lt,
)
from discovery_docker.sockets import EngineError

CALL_TIMEOUT = 10.0
"""Seconds within which a working engine answers a request, also on a busy machine."""

_SDK_MARGIN = 1.0
"""Seconds by which the SDK's own timeout is longer, so that `call` reports the timeout."""
_CONNECTION_POOLS = 64
"""Pools of the SDK, one for each URL: more than requests at a time, since the SDK closes the oldest pool."""
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}", re.ASCII)
"""The version of an API, as an engine tells it in the header Api-Version."""
_LONGEST_ANSWER = 200
"""Characters of an engine's answer in an error, which is one line."""

_GROUPS = Path("/proc/self/gid_map")
"""The groups of this process's user namespace: the first, the first outside, and how many (user_namespaces(7))."""
_EVERY_GROUP = ["0", "0", str(2**32 - 1)]
"""The groups of the machine itself."""
_OVERFLOW_GROUP = Path("/proc/sys/kernel/overflowgid")
"""The number that the kernel tells in place of a group which the user namespace lacks."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The identity of an engine: its id, and the host name of its machine. Empty text where the engine has none."""

    id: str = ""
    name: str = ""


UNKNOWN = EngineInfo()
"""The identity of an engine that was not asked, or does not tell."""


async def call(timeout: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `function`, called on a thread of its own. Raises TimeoutError after `timeout` seconds.

    The thread is a daemon thread and not an executor's: the end of the process does not wait for a hanging call.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def deliver(result: Callable[[], None]) -> None:
        if not answer.done():
            result()

    def run() -> None:
        result: Callable[[], None]
        try:
            value = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            failure = error
            result = lambda: answer.set_exception(failure)  # noqa: E731
        else:
            result = lambda: answer.set_result(value)  # noqa: E731
        with suppress(RuntimeError):  # the loop is closed, and nobody awaits the result
            loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, name="docker-call", daemon=True).start()
    async with asyncio.timeout(timeout):
        return await answer


class Connection(NamedTuple):
    """A client of an engine; the time on the engine's clock, in whole seconds since the epoch; True for Podman."""

    client: docker.APIClient
    time: int
    is_podman: bool


def connect(url: str) -> Connection:
    """Connect to the engine. Blocks.

    The first request is a ping, which Podman answers in 0.02 s where `/version` takes seconds on a busy machine.
    """
    with _client(url, MINIMUM_DOCKER_API_VERSION) as client:
        answer = client.get(f"{client.base_url}/_ping", timeout=CALL_TIMEOUT)
    if not answer.ok:
        raise EngineError(_refusal(url, answer.status_code, answer.text))
    version = answer.headers.get("Api-Version", "")
    if not _VERSION.fullmatch(version):
        raise EngineError(f"the server at {url} is not a Docker engine")
    if version_lt(version, MINIMUM_DOCKER_API_VERSION):
        raise EngineError(
            f"the Docker engine at {url} is too old: its API has version {version}, and version "
            f"{MINIMUM_DOCKER_API_VERSION} or later is required"
        )
    try:
        now = int(parsedate_to_datetime(answer.headers["Date"]).timestamp())
    except (LookupError, ValueError, TypeError):
        now = int(time.time())
    return Connection(_client(url, version), now, is_podman="Libpod-Api-Version" in answer.headers)


def identity(client: docker.APIClient) -> EngineInfo:
    """Return the engine's own id and the host name of its machine; empty if the engine refuses to tell. Blocks.

    The id is empty, too, if it is another at every request, as that of Podman is.
    """
    try:
        one, other = (client.info() for _ in range(2))
        lasts, name = one.get("ID") == other.get("ID"), other.get("Name")
    except (APIError, ValueError, AttributeError):  # also what is no object of JSON
        return UNKNOWN
    return EngineInfo(str(other.get("ID") or "") if lasts else "", str(name or ""))


def explain(url: str, error: BaseException, find_container: Callable[[], str | None] = container_id) -> EngineError:
    """Return the error for a user: the reason why the engine at `url` cannot be used, with a remedy.

    `find_container` returns the id of the container that this process runs in, None outside of containers.
    """
    found = list(_causes(error))

    def caused_by(*types: type[BaseException]) -> BaseException | None:
        return next((each for each in found if isinstance(each, types)), None)

    if isinstance(error, EngineError):
        return error
    if caused_by(FileNotFoundError, ConnectionRefusedError):
        return EngineError(f"there is no Docker engine at {url}: start Docker, or set another URL")
    if caused_by(PermissionError):
        in_container = find_container() is not None
        if in_container and _is_unmapped(url):
            remedy = (
                "its user namespace lacks the group of the socket: start this container with --userns=host, or in a"
                " rootless Podman with --group-add keep-groups"
            )
        elif in_container and (number := _group_number(url)) is not None:
            remedy = f"start this container with --group-add {number}, the group of the socket"
        else:
            remedy = f"add the user to the group {_group_of(url)}"
        return EngineError(f"user {_user()} may not use the Docker engine at {url}: {remedy}")
    if failure := caused_by(ssl.SSLError):
        why = getattr(failure, "verify_message", None) or getattr(failure, "reason", None) or failure
        return EngineError(f"no TLS with the Docker engine at {url}: {why}; see DOCKER_CERT_PATH")
    if caused_by(TimeoutError):
        return EngineError(f"the Docker engine at {url} is not responding")
    if failure := caused_by(socket.gaierror):
        return EngineError(f"there is no Docker engine at {url}: the host name cannot be resolved ({failure.args[-1]})")
    if isinstance(error, APIError):
        return EngineError(_refusal(url, error.status_code, error.explanation))
    if failure := caused_by(ConnectionError):
        return EngineError(f"the Docker engine at {url} has closed the connection")
    return EngineError(f"the Docker engine at {url} cannot be used: {' '.join(str(error).split())}")


class Events:
    """The engine's events that pass the `filters`, each passed to `handle` on the event loop.

    The future `opened` is done once the engine sends events, first those since `since` (engine's clock, seconds since
    the epoch). The future `ended` is done after the last event; its exception is the reason.
    """

    def __init__(
        self,
        client: docker.APIClient,
        since: int,
        filters: Mapping[str, list[str]],
        handle: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Start the thread that reads the stream."""
        self._client = client
        self._filters = filters
        self._since = since
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._stream: Any = None
        self._closed = False
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="docker-events", daemon=True).start()

    def close(self) -> None:
        """Close the stream, even if the engine hangs."""
        self._closed = True
        if self._stream is not None:
            with suppress(AttributeError, OSError, ValueError, DockerException):  # from a closed stream
                self._stream.close()

    def _run(self) -> None:
        error: Exception = ConnectionError("the stream of events has ended")
        try:
            self._stream = self._client.events(since=str(self._since), filters=self._filters, decode=True)
            if self._closed:  # close() was called before there was a stream
                self.close()
            self._post(self._resolve, self.opened, None)
            for event in self._stream:
                self._post(self._handle, event)
        except (OSError, DockerException) as raised:
            error = raised
        except Exception:  # noqa: BLE001, S110 - the SDK raises internal errors when the connection is lost
            pass
        self._post(self._resolve, self.opened, error)
        self._post(self._resolve, self.ended, error)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody awaits the result
            self._loop.call_soon_threadsafe(callback, *args)

    @staticmethod
    def _resolve(future: "asyncio.Future[None]", error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # retrieved, so that asyncio does not log a future that nobody awaits


def _client(url: str, version: str) -> docker.APIClient:
    try:
        timeout = CALL_TIMEOUT + _SDK_MARGIN
        client = docker.APIClient(url, version=version, timeout=timeout, tls=_tls(url), num_pools=_CONNECTION_POOLS)
    except DockerException as error:
        raise EngineError(f"{url} is not a usable Docker engine: {' '.join(str(error).split())}") from None
    # Otherwise the environment's CA bundle replaces the configured one, and a proxy of the environment is used.
    client.trust_env = False
    return client


def _tls(url: str) -> TLSConfig | bool:
    """Return the TLS settings of the environment, as the docker command reads them; certificates alone turn TLS on."""
    verify, unverified, directory = (
        os.environ.get(f"DOCKER_{name}", "") for name in ("TLS_VERIFY", "TLS", "CERT_PATH")
    )
    parts = urlsplit(url)
    if parts.scheme == "unix" or not (verify or unverified or directory or parts.scheme == "https"):
        return False
    certificates = Path(directory) if directory else Path.home() / ".docker"
    ca, certificate, key = (certificates / name for name in ("ca.pem", "cert.pem", "key.pem"))
    checked = bool(verify) or not unverified
    missing = [str(path) for path in (certificate, key) if not path.is_file()]
    if (checked and not ca.is_file()) or len(missing) == 1:
        required = missing[0] if len(missing) == 1 else ca
        raise EngineError(f"no TLS with the Docker engine at {url}: there is no {required}; see DOCKER_CERT_PATH")
    return TLSConfig(
        client_cert=None if missing else (str(certificate), str(key)),
        ca_cert=str(ca) if checked else None,
        verify=checked,
    )


def _refusal(url: str, status: int | None, text: object) -> str:
    answer = " ".join(str(text or "").split())[:_LONGEST_ANSWER]
    if "HTTPS server" in answer:
        return f"the Docker engine at {url} requires TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
    return f"the Docker engine at {url} refuses the request: {answer or 'no reason given'} (status {status})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, however requests and urllib3 have wrapped them."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _group_of(url: str) -> str:
    if (number := _group_number(url)) is not None:
        with suppress(KeyError):
            return grp.getgrgid(number).gr_name
    return "docker"


def _group_number(url: str) -> int | None:
    """Return the number of the group of a socket; None for a group in which membership is no remedy.

    That is the group root, and one that this process's user namespace lacks.
    """
    if _is_unmapped(url):
        return None
    with suppress(OSError):
        return Path(urlsplit(url).path).stat().st_gid or None
    return None


def _is_unmapped(url: str) -> bool:
    """Return True if the user namespace of this process lacks the group of the socket.

    The kernel then tells the overflow group, 65534 as a rule, to which nobody gains anything by belonging.
    """
    with suppress(OSError, ValueError):
        has_every_group = _GROUPS.read_text().split() == _EVERY_GROUP
        return not has_every_group and Path(urlsplit(url).path).stat().st_gid == int(_OVERFLOW_GROUP.read_text())
    return False
