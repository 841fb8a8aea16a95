"""The addresses of members that are given by host name, looked up for each connection as the machine does."""

import asyncio
import socket
from typing import Final

from discovery.addresses import family_of
from discovery.model import join_host_port
from discovery.registry.etcd.failures import MemberUnavailableError
from discovery.system.lookups import Found, Lookups

_THREADS: Final = 8
_PATIENCE: Final = 0.5


class Targets:
    """The gRPC target of each endpoint, `host:port`. For one event loop.

    gRPC itself looks a name up at most every 30 s, and waits up to two minutes after a failure: a lease does not last
    that long. Here each connection has its own lookup. While a name cannot be looked up its last answer stands.
    """

    def __init__(self) -> None:
        """Look nothing up yet."""
        self._lookup = Lookups(_THREADS)
        self._last: dict[str, str] = {}

    async def of(self, endpoint: str, timeout: float) -> str:
        """The target for an endpoint: all addresses of its host. Takes up to `timeout` seconds.

        Raises MemberUnavailableError if the name cannot be looked up, and never was.
        """
        host, _, port = endpoint.rpartition(":")
        if family_of(host.strip("[]").partition("%")[0]) is not None:
            return endpoint
        last = self._last.get(endpoint)
        try:
            async with asyncio.timeout(timeout if last is None else min(timeout, _PATIENCE)):
                last = self._last[endpoint] = _target(await self._lookup(host), port)
        except OSError as error:  # TimeoutError is one
            if last is None:
                reason = error.strerror or "no answer in time"
                raise MemberUnavailableError(f"etcd {endpoint}: its name cannot be resolved: {reason}") from None
        return last


def _target(found: Found, port: str) -> str:
    families = {family for family, _ in found}
    if families == {socket.AF_INET}:
        return "ipv4:" + ",".join(join_host_port(address, port) for _, address in found)
    # One target has one family. An IPv4 address has a form as IPv6 address, by which the kernel connects as usual.
    mapped = (address if ":" in address else f"::ffff:{address}" for _, address in found)
    return "ipv6:" + ",".join(join_host_port(address, port) for address in mapped)
