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
    import aiohttp  # imported where it is needed: it takes longer than most commands

_MOST_BODY = 64 * 1024
"""Bytes of a body that are read: enough for a page of status, and a bound on memory and on the regex's time."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer: the `status` code, and the first 64 KiB of the `body`."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Passes if the status is in one of the ranges `status`, and the body matches the regex `body`, if given.

    `status` has inclusive ranges. `path` may have a query. `method` is in capitals. `body` is a regex of RE2, which
    takes time linear in the text. `host` is the Host header, and over TLS the expected name of the certificate. `tls`
    asks over TLS; `verify` says whether the certificate must be valid, and `ca` is a PEM file with the authorities to
    trust in place of the system's. `address` is the host and port to ask in place of the backend's. `lookup` looks host
    names up.

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
        """Refuse now what would fail at every run."""
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
        """Send the request to `backend`, and return the answer of whatever status.

        For probes that read more of an answer. Raises OSError or aiohttp.ClientError. Takes as long as the server does:
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
        # A connector of its own for each run: nothing is kept alive that would delay a server's graceful end.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=1, use_dns_cache=False, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # the checker's alone counts
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
    """Refuse what no request line can hold. ValueError."""
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path or "#" in path:
        raise ValueError("is a path as HTTP has it: '/' first, ASCII, no spaces (%20) and no '#'")
    return path


def valid_method(method: str) -> str:
    """Refuse what is no method. ValueError."""
    if not (method.isascii() and method.isalpha() and method.isupper()):
        raise ValueError("is a method such as GET or HEAD")
    return method


def valid_host(host: str) -> str:
    """Refuse what no Host header can hold. ValueError."""
    if not host or not host.isascii() or not host.isprintable() or set(host) & set(" ,/"):
        raise ValueError("is a host name, as the Host header has it")
    return host


def valid_regex(pattern: str) -> str:
    """Refuse what RE2 does not know. ValueError."""
    _finder(pattern)
    return pattern


@lru_cache(maxsize=256)
def _finder(pattern: str) -> Callable[[bytes], bool]:
    """A function that searches a body for an RE2 regex. With Python's own a body could take for ever."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise ValueError(f"is no regex that RE2 knows: {told}") from None
    # Decoded first: RE2 matches no byte that is not UTF-8, not even by a dot.
    return lambda body: compiled.search(body.decode(errors="replace")) is not None


@lru_cache(maxsize=16)
def _context(ca: Path | None, _modified: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _tls(ca: Path | None) -> ssl.SSLContext:
    """Made once: reading the authorities takes longer than most checks."""
    return _context(ca, ca.stat().st_mtime_ns if ca is not None else 0)


def _name(host: str | None) -> str | None:
    """The name in a Host header, without its port."""
    if host is None:
        return None
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]")


async def _at_most(stream: "aiohttp.StreamReader", size: int) -> bytes:
    body = b""
    while len(body) < size and (chunk := await stream.read(size - len(body))):
        body += chunk
    return body
