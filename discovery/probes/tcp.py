"""A probe that makes a TCP connection, and the words in which all probes describe failures."""

import asyncio
import os
import ssl
from dataclasses import dataclass, field, replace
from typing import Self

from discovery.checks import Outcome, Verdict
from discovery.model import Backend
from discovery.system.lookups import Lookup, Lookups

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Passes if a TCP connection is established.

    `address` is the host and port to connect to in place of the backend's. `lookup` looks host names up.
    """

    address: Address | None = None
    lookup: Lookup = field(default_factory=lambda: Lookups(threads=1), repr=False, compare=False, kw_only=True)

    def with_lookup(self, lookup: Lookup) -> Self:
        """Return an equal probe that looks host names up by `lookup`."""
        return replace(self, lookup=lookup)

    async def __call__(self, backend: Backend) -> Outcome:
        """Connect to `backend`, close the connection, and return the outcome."""
        host, port = self.address or (backend.host, backend.port)
        try:
            writer = await _connected(host, port, self.lookup)
        except OSError as error:
            return failing(reason(error))
        try:
            # A connection to a free local port may get the same port as its source, and then connects to itself.
            if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
                return failing("connection refused")
            return Outcome()
        finally:
            writer.close()


async def _connected(host: str, port: int, lookup: Lookup) -> asyncio.StreamWriter:
    """Connect to the first address of `host` that accepts a connection. Raises the OSError of the last address."""
    failure = OSError("the host name has no address")
    for _, address in await lookup(host):
        try:
            return (await asyncio.open_connection(address, port))[1]
        except OSError as error:
            failure = error
    raise failure


def failing(why: str) -> Outcome:
    """Return a failing outcome with the detail `why`, a line for a person."""
    return Outcome(Verdict.FAILING, why)


def reason(error: BaseException) -> str:
    """Return the reason for `error`, of a failed connection or request, in words: `connection refused`."""
    if isinstance(inner := getattr(error, "os_error", None), OSError):  # aiohttp wraps the original OSError
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
