"""Asks a Docker engine through its SDK: off the loop, within deadlines, with errors that name the way out."""

import asyncio
import grp
import os
import pwd
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import docker
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.utils import version_lt

from discovery import DiscoveryError

DEFAULT_URL = "unix:///var/run/docker.sock"
CALL_TIMEOUT = 10.0
"""Seconds within which the engine answers any one question, however busy it is."""

_EVENTS = (
    *("start", "die", "stop", "restart", "kill", "destroy", "pause", "unpause", "rename", "health_status"),
    *("connect", "disconnect"),
)

P = ParamSpec("P")
T = TypeVar("T")


class EngineError(DiscoveryError):
    """The Docker engine cannot be reached or asked: why, and the way out, in a line."""


def engine_url(url: str | None) -> str:
    """Where the engine is: `url`, else DOCKER_HOST, else the socket of this machine. Raises EngineError."""
    found = (url or os.environ.get("DOCKER_HOST") or DEFAULT_URL).strip()
    try:
        parts = urlsplit(found)
        if "@" in parts.netloc:  # not to be shown: it may hold a password
            raise EngineError("the URL of the Docker engine holds a user, which Docker knows nothing of: leave it out")
        fits = bool(parts.path if parts.scheme == "unix" else parts.hostname and parts.port)
    except ValueError:
        fits = False
    if not fits or parts.scheme not in ("unix", "tcp", "http", "https"):
        raise EngineError(f"{found} is no Docker engine that can be used: give unix:///PATH or tcp://HOST:PORT")
    return found


async def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns, on a thread of its own. Raises TimeoutError after `CALL_TIMEOUT`.

    Unlike one of an executor's, a thread that hangs is waited for by nobody, not even at the end of the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
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
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="docker-call", daemon=True).start()
    async with asyncio.timeout(CALL_TIMEOUT):
        return await answer


def connect(url: str) -> tuple[docker.APIClient, int]:
    """A client for the engine, and the time on the engine's clock, in whole seconds since the epoch. Blocks."""
    with _client(url, MINIMUM_DOCKER_API_VERSION) as client:
        answer = client.get(f"{client.base_url}/version", timeout=CALL_TIMEOUT)
    if not answer.ok:
        raise EngineError(_refusal(url, answer.status_code, answer.text))
    try:
        version = answer.json()["ApiVersion"]
        too_old = version_lt(version, MINIMUM_DOCKER_API_VERSION)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise EngineError(f"what answers at {url} is no Docker engine") from None
    if too_old:
        raise EngineError(
            f"the Docker engine at {url} is too old: it speaks version {version} of its API, which must be "
            f"{MINIMUM_DOCKER_API_VERSION} or later"
        )
    try:
        now = int(parsedate_to_datetime(answer.headers["Date"]).timestamp())
    except (LookupError, ValueError, TypeError):
        now = int(time.time())
    return _client(url, version), now


def explain(url: str, error: BaseException) -> EngineError:
    """What went wrong with the engine at `url`, for a person."""
    found = list(_causes(error))

    def caused_by(*types: type[BaseException]) -> BaseException | None:
        return next((each for each in found if isinstance(each, types)), None)

    if isinstance(error, EngineError):
        return error
    if caused_by(FileNotFoundError, ConnectionRefusedError):
        return EngineError(f"there is no Docker engine at {url}: start it, or name another")
    if caused_by(PermissionError):
        return EngineError(
            f"user {_user()} may not use the Docker engine at {url}: add the user to the group {_group_of(url)}"
        )
    if failure := caused_by(ssl.SSLError):
        why = getattr(failure, "verify_message", None) or getattr(failure, "reason", None) or failure
        return EngineError(f"no TLS with the Docker engine at {url}: {why}; see DOCKER_CERT_PATH")
    if caused_by(TimeoutError):
        return EngineError(f"the Docker engine at {url} is not responding")
    if failure := caused_by(socket.gaierror):
        return EngineError(f"there is no Docker engine at {url}: its name is not known ({failure.args[-1]})")
    if isinstance(error, APIError):
        return EngineError(_refusal(url, error.status_code, error.explanation))
    if failure := caused_by(ConnectionError):
        return EngineError(f"the Docker engine at {url} has hung up")
    return EngineError(f"the Docker engine at {url} cannot be asked: {' '.join(str(error).split())}")


class Events:
    """The engine's events about containers, each handed to `take` on the loop. `ended` is done when no more will come.

    `opened` is done once the engine has begun to send, those from the second `since` on first.
    """

    def __init__(self, client: docker.APIClient, since: int, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Begin, on a thread of its own."""
        self._client = client
        self._since = since
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._stream: Any = None
        self._closed = False
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="docker-events", daemon=True).start()

    def close(self) -> None:
        """End it, also where the engine hangs."""
        self._closed = True
        if self._stream is not None:
            with suppress(AttributeError, OSError, ValueError, DockerException):  # the SDK's, when it has ended already
                self._stream.close()

    def _run(self) -> None:
        error: Exception = ConnectionError("the stream of events has ended")
        try:
            filters = {"type": ["container", "network"], "event": list(_EVENTS)}
            self._stream = self._client.events(since=str(self._since), filters=filters, decode=True)
            if self._closed:  # while there was nothing to close yet
                self.close()
            self._post(self._settle, self.opened, None)
            for event in self._stream:
                self._post(self._take, event)
        except (OSError, DockerException) as raised:
            error = raised
        except Exception:  # noqa: BLE001, S110 - whatever the SDK leaks when its connection goes means just that
            pass
        self._post(self._settle, self.opened, error)
        self._post(self._settle, self.ended, error)

    def _post(self, what: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(what, *args)

    @staticmethod
    def _settle(future: "asyncio.Future[None]", error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # that nobody awaits it is no mistake


def _client(url: str, version: str) -> docker.APIClient:
    try:
        # A pool for each address asked for: more of them than are in use at a time, since the oldest are closed.
        client = docker.APIClient(url, version=version, timeout=CALL_TIMEOUT + 1, tls=_tls(url), num_pools=64)
    except DockerException as error:
        raise EngineError(f"{url} is no Docker engine that can be used: {' '.join(str(error).split())}") from None
    # Or the environment's CA bundle would replace the one given, and its proxies be asked for the engine.
    client.trust_env = False
    return client


def _tls(url: str) -> TLSConfig | bool:
    """As the docker command does, but that certificates alone suffice: they are useless without TLS."""
    verify, unverified, directory = (
        os.environ.get(f"DOCKER_{name}", "") for name in ("TLS_VERIFY", "TLS", "CERT_PATH")
    )
    parts = urlsplit(url)
    if parts.scheme == "unix" or not (verify or unverified or directory or parts.scheme == "https"):
        return False
    place = Path(directory) if directory else Path.home() / ".docker"
    ca, certificate, key = (place / name for name in ("ca.pem", "cert.pem", "key.pem"))
    checked = bool(verify) or not unverified
    missing = [str(path) for path in (certificate, key) if not path.is_file()]
    if (checked and not ca.is_file()) or len(missing) == 1:
        wanted = missing[0] if len(missing) == 1 else ca
        raise EngineError(f"no TLS with the Docker engine at {url}: there is no {wanted}; see DOCKER_CERT_PATH")
    return TLSConfig(
        client_cert=None if missing else (str(certificate), str(key)),
        ca_cert=str(ca) if checked else None,
        verify=checked,
    )


def _refusal(url: str, status: int | None, text: object) -> str:
    said = " ".join(str(text or "").split())[:200]
    if "HTTPS server" in said:
        return f"the Docker engine at {url} wants TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
    return f"the Docker engine at {url} refuses: {said or 'no reason given'} (status {status})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions it was made of, however requests and urllib3 have wrapped them."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _group_of(url: str) -> str:
    with suppress(OSError, KeyError):
        group = Path(urlsplit(url).path).stat().st_gid
        if group != 0:  # which is nobody's way out
            return grp.getgrgid(group).gr_name
    return "docker"
