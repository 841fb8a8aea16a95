"""The consumer `dns`: answers DNS queries from the snapshot that was applied last."""

import asyncio
import difflib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from discovery import (
    Addresses,
    ApplyError,
    Backend,
    Consumer,
    Context,
    Health,
    PluginConfig,
    Sample,
    Snapshot,
    Update,
    Validation,
    describe,
)
from discovery.toolkit import cancel_and_wait
from discovery_dns.config import DnsConfig
from discovery_dns.explaining import lines_of
from discovery_dns.limits import LIMITS, Limits
from discovery_dns.listeners import Listeners
from discovery_dns.responder import KINDS, RCODES, Responder, Transport
from discovery_dns.sockets import own_addresses
from discovery_dns.tcp import TcpServer
from discovery_dns.zone import Zone

_PROBLEMS = 20
"""Addresses and services that `health` shows one by one: the core logs each, and many of one kind flood the log."""


class DnsConsumer(Consumer[DnsConfig]):
    """DNS server for the services of the registry."""

    Config: ClassVar[type[PluginConfig]] = DnsConfig

    def __init__(self, config: DnsConfig, context: Context, limits: Limits = LIMITS) -> None:
        """Create the consumer with its time limits; `setup` opens the addresses."""
        super().__init__(config, context)
        self._limits = limits
        self._responder = Responder()
        self._update: Update | None = None
        self._zone: Zone | None = None
        self._tcp: TcpServer | None = None
        self._listeners: Listeners | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._fault: str | None = None

    async def setup(self) -> None:
        """Open or inherit the sockets. Raises ApplyError if no address can be opened."""
        config = self.config
        self._tcp = TcpServer(
            self._respond("tcp"),
            most=config.tcp_connections,
            idle_timeout=config.tcp_idle_timeout,
            first_query=self._limits.first_query,
        )
        self._listeners = Listeners(self.context.log, self._respond("udp"), self._tcp)
        await self._listeners.listen(config.listen, self.context.inherited)
        if not self._listeners.addresses:
            raise ApplyError("; ".join(self._listeners.errors.values()))
        self._tasks = [
            asyncio.create_task(self._start_without_snapshot(), name="start without a snapshot"),
            asyncio.create_task(self._retry(), name="retry addresses"),
        ]

    async def apply(self, update: Update) -> None:
        """Answer from `update` from now on."""
        self._update = update
        if self._zone is None:
            self._zone = self._new_zone()
        zone, self._zone = self._zone, None  # a zone that was updated in part is not used again
        changes = update.changes if update.previous is zone.snapshot else None
        for _ in zone.steps(update.snapshot, update.addresses, changes):
            await asyncio.sleep(0)  # queries are answered
        self._responder.zone = self._zone = zone
        if self._listeners is not None:
            await self._listeners.start()

    async def preview(self, update: Update) -> str:
        """Return the changes of the domain's records."""
        before = self._lines(update.previous, update.addresses) if update.previous is not None else []
        after = self._lines(update.snapshot, update.addresses)
        return "".join(f"{line}\n" for line in difflib.unified_diff(before, after, "before", "after", lineterm=""))

    async def validate(self, update: Update) -> Validation:
        """Return the addresses. Addresses that are in use now may be free later, and are not checked."""
        del update
        return Validation(listens=self.config.listen)

    async def reconfigure(self, config: DnsConfig) -> bool:
        """Adopt every change in place. Addresses that stay are not closed."""
        self.config, self._fault = config, None
        if self._listeners is not None and self._tcp is not None:
            self._tcp.most, self._tcp.idle_timeout = config.tcp_connections, config.tcp_idle_timeout
            await self._listeners.listen(config.listen)
        self._zone = None
        if self._update is not None:
            await self.apply(self._update)
        return True

    async def health(self) -> Health:
        """Return healthy if every address is open. A service without a name is a problem."""
        errors = list(self._listeners.errors.values()) if self._listeners is not None else []
        left_out = sorted(self._left_out().items())
        problems = {f"service {name}": reason for name, reason in left_out[:_PROBLEMS]}
        if len(left_out) > _PROBLEMS:
            problems["services"] = f"{len(left_out)} have no domain name of their own; the consumer's details list all"
        if self._fault is not None:
            problems["queries"] = self._fault
        more = f"; and {len(errors) - _PROBLEMS} more" if len(errors) > _PROBLEMS else ""
        return Health(not errors, "; ".join(errors[:_PROBLEMS]) + more, problems=problems)

    def metrics(self) -> Iterable[Sample]:
        """Return the samples."""
        responder, tcp, listeners, zone = self._responder, self._tcp, self._listeners, self._responder.zone
        for (transport, kind, rcode), count in dict(responder.counts).items():
            labels = {"transport": transport, "type": KINDS.get(kind, "other" if kind else "none")}
            yield Sample("queries", count, {**labels, "rcode": RCODES[rcode]}, help="Queries answered")
        yield Sample("truncated", responder.truncated, help="Answers that were truncated")
        yield Sample("ignored_packets", responder.ignored, help="Packets that are no queries")
        yield Sample("dropped", listeners.dropped if listeners else 0, help="Answers over UDP that could not be sent")
        yield Sample(
            "tcp_connections", tcp.connections if tcp else 0, kind="gauge", help="TCP connections that are open"
        )
        yield Sample("tcp_displaced", tcp.displaced if tcp else 0, help="TCP connections closed for new connections")
        yield Sample("services", zone.services if zone else 0, kind="gauge", help="Services with a domain name")
        yield Sample("left_out", len(self._left_out()), kind="gauge", help="Services without a name of their own")

    async def inspect(self) -> Mapping[str, Any]:
        """Return what the server answers for, and why services are left out."""
        zone, listeners = self._responder.zone, self._listeners
        return {
            "domain": self.config.domain,
            "listening": list(listeners.addresses) if listeners is not None else [],
            "not_listening": dict(listeners.errors) if listeners is not None else {},
            "revision": None if zone is None else zone.revision,
            "services": 0 if zone is None else zone.services,
            "left_out": dict(self._left_out()),
            "queries": sum(self._responder.counts.values()),
            "tcp_connections": self._tcp.connections if self._tcp is not None else 0,
        }

    def explain(self, backends: Sequence[Backend]) -> Mapping[str, Sequence[str]]:
        """Return the records in which these backends stand, with their names, or why they stand in none."""
        zone = self._responder.zone
        return lines_of(zone, self.config, backends) if zone is not None else {}

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Return copies of the sockets. Until `teardown` this process answers as well."""
        return self._listeners.copies() if self._listeners is not None else ()

    async def teardown(self) -> None:
        """Close everything. Queries that have not been read stay for a successor."""
        await cancel_and_wait(*self._tasks)
        if self._listeners is not None:
            await self._listeners.close(self._limits.last_answers)

    def _new_zone(self) -> Zone:
        return Zone(self.config, own_addresses(self.config.listen))

    def _lines(self, snapshot: Snapshot, addresses: Addresses | None) -> list[str]:
        zone = self._new_zone()
        zone.update(snapshot, addresses)
        return list(zone.lines())

    def _left_out(self) -> Mapping[str, str]:
        return self._responder.zone.left_out if self._responder.zone is not None else {}

    def _respond(self, transport: Transport) -> Callable[[bytes], bytes | None]:
        responder = self._responder

        def respond(packet: bytes) -> bytes | None:
            try:
                return responder.respond(packet, transport)
            except Exception as error:  # a query must not end the server
                if self._fault is None:
                    self._fault = f"a query could not be answered: {describe(error)}"
                    self.context.log.error("a query could not be answered", query=packet.hex(), exc_info=error)
                return responder.fail(packet, transport)

        return respond

    async def _start_without_snapshot(self) -> None:
        await asyncio.sleep(self._limits.first_apply)
        if self._listeners is not None:
            await self._listeners.start()

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(self._limits.retry)
            if self._listeners is not None and self._listeners.errors:
                await self._listeners.listen(self.config.listen)
