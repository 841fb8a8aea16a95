"""A probe that makes an HTTP request."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from discovery.checks import Outcome
from discovery.model import Backend
from discovery.probes.resolver import Resolver
from discovery.probes.tcp import Address, failing, reason
from discovery.system.lookups import Lookup, Lookups

if TYPE_CHECKING:
    import aiohttp  # imported on use: the import takes longer than most commands

_MOST_BODY = 64 * 1024
"""Bytes of a body that are read: enough for a page of status, and a bound on memory and on the regex's time."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer: the `status` code, and the first 64 KiB of the `body`."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Passes if the status is in any of the ranges `status`, and the body matches the regex `body`, if given.

    `status` has inclusive ranges. `path` may have a query. `method` is in capitals. `body` is a regex of RE2, which
    takes time linear in the text. `host` is the Host header, and over TLS the expected name of the certificate. With
    `tls` the request uses TLS; with `verify` the certificate must be valid, and `ca` is a PEM file with the authorities
    to trust in place of the system's. `address` is the host and port to connect to in place of the backend's. `lookup`
    looks host names up.

    Redirects are not followed, proxies are not used, and the connection is closed after the answer. Raises ValueError
    for an invalid path, method, Host header or regex.
    """

    path: str = "/"
    method: str = "GET"
    status: tuple[tuple[int, int], ...] = ((200, 399),)
    body: str | None = None
    host: str | None = None
    tls: bool = False
    verify: bool = True
    ca: Path | None = None
    address: Address | None = None
    lookup: Lookup = field(default_factory=lambda: Lookups(threads=1), repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        """Validate the options that would otherwise fail at every run. Raises ValueError."""
        for check, value in (
            (valid_path, self.path),
            (valid_method, self.method),
            (valid_host, self.host),
            (valid_regex, self.body),
        ):
            if value is not None:
                check(value)

    def with_lookup(self, lookup: Lookup) -> Self:
        """Return an equal probe that looks host names up by `lookup`."""
        return replace(self, lookup=lookup)

    async def __call__(self, backend: Backend) -> Outcome:
        """Send the request to `backend`, and return the outcome. An error of the connection is a failure."""
        import aiohttp

        try:
            response = await self.fetch(backend)
        except (OSError, aiohttp.ClientError) as error:
            return failing(reason(error))
        if not any(least <= response.status <= most for least, most in self.status):
            return failing(f"{self.method} {self.path}: status {response.status}")
        if self.body is not None and not _finder(self.body)(response.body):
            return failing(f"{self.method} {self.path}: the body does not match")
        return Outcome(detail=f"status {response.status}")

    async def fetch(self, backend: Backend) -> HttpResponse:
        """Send the request to `backend`, and return the response, whatever its status.

        For probes that evaluate the response by themselves. Raises OSError or aiohttp.ClientError. There is no timeout:
        the caller limits the time.
        """
        import aiohttp
        from yarl import URL

        host, port = self.address or (backend.host, backend.port)
        path, _, query = self.path.partition("?")
        scheme = "https" if self.tls else "http"
        literal = f"[{host}]" if ":" in host else host
        url = URL.build(scheme=scheme, host=literal, port=port, path=path, query_string=query, encoded=True)
        headers = {"User-Agent": "discovery", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
        if self.host is not None:
            headers["Host"] = self.host
        resolver: Any = Resolver(self.lookup)
        # A new connector for each run: an idle connection would delay a graceful stop of the server.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=1, use_dns_cache=False, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # the core cancels the probe after the check's timeout
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.request(
                self.method,
                url,
                headers=headers,
                allow_redirects=False,
                ssl=_tls(self.ca) if self.tls and self.verify else False,
                server_hostname=_name(self.host) if self.tls else None,
            ) as response,
        ):
            return HttpResponse(response.status, await _at_most(response.content, _MOST_BODY))


def valid_path(path: str) -> str:
    """Return `path` if valid in an HTTP request line. Raises ValueError otherwise."""
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path or "#" in path:
        raise ValueError("must be an HTTP path: it starts with '/', and has ASCII without spaces (write %20) and '#'")
    return path


def valid_method(method: str) -> str:
    """Return `method` if valid as an HTTP method. Raises ValueError otherwise."""
    if not (method.isascii() and method.isalpha() and method.isupper()):
        raise ValueError("must be an HTTP method in capitals, such as GET or HEAD")
    return method


def valid_host(host: str) -> str:
    """Return `host` if valid in an HTTP Host header. Raises ValueError otherwise."""
    if not host or not host.isascii() or not host.isprintable() or set(host) & set(" ,/"):
        raise ValueError("must be a host name for the HTTP Host header")
    return host


def valid_regex(pattern: str) -> str:
    """Return `pattern` if valid as a regex of RE2. Raises ValueError otherwise."""
    _finder(pattern)
    return pattern


@lru_cache(maxsize=256)
def _finder(pattern: str) -> Callable[[bytes], bool]:
    """Return a function that searches a body for an RE2 regex. Python's `re` could search without an end."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        fault = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise ValueError(f"is not a regex of RE2: {fault}") from None
    # The body is decoded first: in RE2 nothing matches a byte that is not UTF-8, not even a dot.
    return lambda body: compiled.search(body.decode(errors="replace")) is not None


@lru_cache(maxsize=16)
def _context(ca: Path | None, _modified: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _tls(ca: Path | None) -> ssl.SSLContext:
    """Return the TLS context, which is cached: reading the authorities takes longer than most checks."""
    return _context(ca, ca.stat().st_mtime_ns if ca is not None else 0)


def _name(host: str | None) -> str | None:
    """Return the name in a Host header, without the port."""
    if host is None:
        return None
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]")


async def _at_most(stream: "aiohttp.StreamReader", size: int) -> bytes:
    body = b""
    while len(body) < size and (chunk := await stream.read(size - len(body))):
        body += chunk
    return body
