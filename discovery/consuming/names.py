"""Addresses of host names: looked up again and again, reachable addresses first.

The core follows the names of the registry by `Names`, and a plugin follows the names of its configuration by the same
rules.
"""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from discovery.model import Addresses, Endpoint
from discovery.system.asyncio_tools import wait_for_event
from discovery.system.lookups import Lookups

EVERY = 5.0
"""Seconds between two lookups of a name."""
_HOSTS = Path("/etc/hosts")
_TESTS_AT_A_TIME = 64
"""Connections that are tested at the same time: a bound on descriptors, whatever the number of names."""
_TESTS_AGAIN = 32
"""Ports of one name that are tested again after a lookup; others have their turn after the next one."""
_STAGGER = 0.25
"""Seconds before the next address is tried beside one that has not answered (RFC 8305)."""
_PATIENCE = 1.0
"""Seconds that the last of the addresses has to answer."""


@dataclass(eq=False)
class _Name:
    host: str
    ports: Counter[int] = field(default_factory=Counter)
    found: tuple[str, ...] = ()
    tested: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """The addresses that each port was tested for last, the latest test last."""
    again: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class Names:
    """Follows the IP addresses of endpoints, each a host name and a port. On one event loop.

    All addresses of both families are given. The first of several is an address that accepts connections at the
    endpoint's port, if any does. That address stays first for as long as it accepts connections, so that rotating
    answers move no traffic. While a name cannot be looked up, its last addresses stand. Lookups have 40 threads, of
    which 4 are for names of the hosts file alone. Names whose servers do not answer delay no others: `Lookups` has the
    rules.

    Every method and property is for the thread of the event loop.
    """

    def __init__(self, changed: Callable[[], None], every: float = EVERY) -> None:
        """Follow nothing yet. The loop calls `changed` when `addresses`, `problems` or `pending` may have changed.

        `every` is the number of seconds between two lookups of a name.
        """
        self._changed = changed
        self._every = every
        self._names: dict[str, _Name] = {}
        self._pending: set[Endpoint] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._known: dict[Endpoint, tuple[str, ...]] = {}
        self._shown: Addresses | None = None
        self._problems: dict[str, str] = {}
        self._lookup = Lookups(36)
        self._local = Lookups(4)
        self._hosts: tuple[int, frozenset[str]] = 0, frozenset()
        self.remembered: Mapping[str, tuple[str, ...]] = {}
        """The addresses that an earlier run found, which stand until a name has been looked up."""
        self._turns = asyncio.Semaphore(_TESTS_AT_A_TIME)

    @property
    def addresses(self) -> Addresses:
        """The known addresses of each endpoint. The same object until an address changes."""
        if self._shown is None:
            self._shown = MappingProxyType(self._known.copy())
        return self._shown

    @property
    def found(self) -> Mapping[str, tuple[str, ...]]:
        """The addresses of each name for which any is known."""
        return {host: name.found for host, name in self._names.items() if name.found}

    @property
    def problems(self) -> Mapping[str, str]:
        """The reason, by name, for which a name has no address, or its last addresses stand."""
        return self._problems

    def problem(self, endpoint: Endpoint) -> str | None:
        """Return the reason, in a line, why the name of `endpoint` has no address or an old address; else None."""
        problem = self._problems.get(endpoint[0])
        if problem is None and endpoint in self._pending and endpoint not in self._known:
            problem = f"no address for {endpoint[0]!r} yet"
        return problem

    @property
    def pending(self) -> Collection[Endpoint]:
        """The endpoints whose first lookup, or first test, is under way."""
        return self._pending

    def __contains__(self, host: str) -> bool:
        """Return True if the host name `host` is followed."""
        return host in self._names

    def add(self, endpoint: Endpoint) -> bool:
        """Follow `endpoint` for a further backend. Return True if `endpoint` was not followed before."""
        host, port = endpoint
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = _Name(host, found=self.remembered.get(host, ()))
            name.task = asyncio.create_task(self._follow_name(name), name=f"names: {host}")
        name.ports[port] += 1
        if name.ports[port] > 1:
            return False
        if name.found:
            self._set_addresses(endpoint, name.found)
        self._pending.add(endpoint)
        self._settled.clear()
        name.again.set()
        return True

    def discard(self, endpoint: Endpoint) -> None:
        """Follow `endpoint` for a backend less, and stop after the last backend.

        Raises KeyError if the name is not followed.
        """
        host, port = endpoint
        name = self._names[host]
        name.ports[port] -= 1
        if name.ports[port]:
            return
        del name.ports[port]
        name.tested.pop(port, None)
        self._pending.discard(endpoint)
        if self._known.pop(endpoint, None) is not None:
            self._shown = None
        if not name.ports:
            del self._names[host]
            self._problems.pop(host, None)
            if name.task is not None:
                name.task.cancel()
        if not self._pending:
            self._settled.set()

    def follow(self, endpoints: Iterable[Endpoint]) -> bool:
        """Follow `endpoints` and no others, instead of `add` and `discard`. True if any was not followed before."""
        wanted = set(endpoints)
        followed = {(name.host, port) for name in self._names.values() for port in name.ports}
        for endpoint in followed - wanted:
            self.discard(endpoint)
        for endpoint in wanted - followed:
            self.add(endpoint)
        return bool(wanted - followed)

    async def settled(self, timeout: float) -> None:
        """Wait until nothing is `pending`, for at most `timeout` seconds. Raises nothing after the timeout."""
        await wait_for_event(self._settled, timeout)

    async def close(self) -> None:
        """Stop following every name. Lookups under way are abandoned to their threads. Idempotent."""
        tasks = [name.task for name in self._names.values() if name.task is not None]
        for task in tasks:
            task.cancel()
        for known in (self._names, self._known, self._problems, self._pending):
            known.clear()
        self._shown = None
        self._settled.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_name(self, name: _Name) -> None:
        while True:
            name.again.clear()
            problem = None
            lookup = self._local if self._is_local(name.host) else self._lookup
            try:
                name.found = _merged(name.found, [address for _, address in await lookup(name.host)])
            except OSError as error:
                problem = _lookup_problem(name.host, error, name.found)
            await self._order_addresses(name)
            if self._problems.get(name.host) != problem:
                if problem is None:
                    del self._problems[name.host]
                else:
                    self._problems[name.host] = problem
                self._changed()
            await wait_for_event(name.again, self._every * random.uniform(0.8, 1.0))  # noqa: S311 - spreads the load

    async def _order_addresses(self, name: _Name) -> None:
        """Bring the addresses of each endpoint into order."""
        found, ports = name.found, tuple(name.ports)
        if len(found) > 1:
            for port in ports:
                if (name.host, port) not in self._known:
                    self._set_addresses((name.host, port), found)  # for those who cannot wait for the test
        new = {port: None for port in ports if name.tested.get(port) != found}
        again = [port for port in name.tested if port not in new]
        some, others = again[:_TESTS_AGAIN], again[_TESTS_AGAIN:]
        await self._test_endpoints(name, tuple(new), found)
        if await self._test_endpoints(name, some, found):
            await self._test_endpoints(name, others, found)  # what has become of one port may have become of all

    async def _test_endpoints(self, name: _Name, ports: Sequence[int], found: tuple[str, ...]) -> bool:
        """Bring the addresses of some ports into order; whether another is the first of any."""
        moved = False
        orders = await asyncio.gather(*(self._ordered(name.host, port, found) for port in ports))
        for port, order in zip(ports, orders, strict=True):
            endpoint = name.host, port
            if port not in name.ports:
                continue
            name.tested.pop(port, None)
            name.tested[port] = found
            known = self._known.get(endpoint)
            if order and known != order:
                moved |= known is not None and known[0] != order[0]
                self._set_addresses(endpoint, order)
                self._changed()
            if endpoint in self._pending:
                self._pending.discard(endpoint)
                if not self._pending:
                    self._settled.set()
                self._changed()
        return moved

    async def _ordered(self, host: str, port: int, found: tuple[str, ...]) -> tuple[str, ...]:
        order = _merged(self._known.get((host, port), ()), found)
        if len(order) > 1:
            async with self._turns:
                first = await first_reachable(order, port)
            if first is not None:
                return (first, *(address for address in order if address != first))
        return order

    def _is_local(self, host: str) -> bool:
        """Return True if the hosts file has this name, so that no name server will be asked."""
        with suppress(OSError, UnicodeDecodeError):
            changed = _HOSTS.stat().st_mtime_ns
            if changed != self._hosts[0]:
                self._hosts = changed, frozenset(_HOSTS.read_text().lower().split())
        return host in self._hosts[1]

    def _set_addresses(self, endpoint: Endpoint, addresses: tuple[str, ...]) -> None:
        self._known[endpoint] = addresses
        self._shown = None


async def first_reachable(addresses: Sequence[str], port: int) -> str | None:
    """The first of the addresses that takes a TCP connection at the port; the next is tried after a quarter second."""
    trying: dict[asyncio.Task[bool], str] = {}
    left = list(addresses)
    try:
        while left or trying:
            if left:
                address = left.pop(0)
                trying[asyncio.create_task(_is_reachable(address, port))] = address
            patience = _STAGGER if left else _PATIENCE
            done, _ = await asyncio.wait(trying, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            connected = [trying.pop(task) for task in tuple(trying) if task in done and task.result()]
            for task in done:
                trying.pop(task, None)
            if connected:
                return connected[0]
            if not done and not left:
                return None
        return None
    finally:
        for task in trying:
            task.cancel()


async def _is_reachable(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            # To a port of this machine from which the kernel serves connections, one may meet oneself.
            return bool(sock.getsockname() != sock.getpeername())
    except OSError:
        return False


def _merged(before: Iterable[str], found: Sequence[str]) -> tuple[str, ...]:
    """The addresses found, each once; those of `before` come first, in their order."""
    kept = [address for address in before if address in found]
    return tuple(dict.fromkeys((*kept, *found)))


def _lookup_problem(host: str, error: OSError, found: Sequence[str]) -> str:
    reason = error.strerror or str(error)
    if found:
        return f"{host!r} cannot be looked up, its last answer {found[0]} stands: {reason}"
    return f"no address for {host!r}: {reason}"
