"""The addresses of members that have a host name, looked up by the system's resolver for each connection."""

import asyncio
import socket
from typing import Final

from discovery.addresses.kinds import family_of
from discovery.model import join_host_port
from discovery.registry.etcd.failures import MemberUnavailableError
from discovery.system.lookups import Found, Lookups

_THREADS: Final = 8
"""Lookups at the same time: a lookup blocks a thread, and a cluster has few members."""
_KNOWN_NAME_TIMEOUT: Final = 0.5
"""Seconds for the lookup of a name whose last answer is known: after that time the last answer is used."""


class Targets:
    """The gRPC target of each endpoint `host:port`. For a single event loop.

    gRPC looks a name up at most every 30 s, and waits up to two minutes after a failure: longer than the TTL of a
    lease. So each connection looks the name up by itself. If a lookup fails, the last answer is used.
    """

    def __init__(self) -> None:
        """Create the targets. No lookup."""
        self._lookup = Lookups(_THREADS)
        self._last: dict[str, str] = {}

    async def of(self, endpoint: str, timeout: float) -> str:
        """Return the gRPC target of `endpoint`: all addresses of its host. Takes up to `timeout` seconds.

        Raises MemberUnavailableError if the lookup fails and no earlier lookup has succeeded.
        """
        host, _, port = endpoint.rpartition(":")
        if family_of(host.strip("[]").partition("%")[0]) is not None:
            return endpoint
        last = self._last.get(endpoint)
        try:
            async with asyncio.timeout(timeout if last is None else min(timeout, _KNOWN_NAME_TIMEOUT)):
                last = self._last[endpoint] = _target(await self._lookup(host), port)
        except OSError as error:  # TimeoutError is a subclass
            if last is None:
                reason = error.strerror or "no answer in time"
                raise MemberUnavailableError(f"etcd {endpoint}: its name cannot be resolved: {reason}") from None
        return last


def _target(found: Found, port: str) -> str:
    families = {family for family, _ in found}
    if families == {socket.AF_INET}:
        return "ipv4:" + ",".join(join_host_port(address, port) for _, address in found)
    # A gRPC target has addresses of a single family. The kernel connects to an IPv4-mapped IPv6 address by IPv4.
    mapped = (address if ":" in address else f"::ffff:{address}" for _, address in found)
    return "ipv6:" + ",".join(join_host_port(address, port) for address in mapped)
