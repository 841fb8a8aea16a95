"""Builds the answers about one name, for each type of records, from the backends of a service."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from discovery import Backend
from discovery_dns import wire
from discovery_dns.answers import MOST_RECORDS, Answers
from discovery_dns.config import DnsConfig
from discovery_dns.names import NAME_SERVER
from discovery_dns.records import Usable, addresses, srv_records
from discovery_dns.wire import RecordBuilder, pointer

SERVER = ".".join(NAME_SERVER)
"""This server's own name, relative to the domain."""

T = TypeVar("T")


class AnswerBuilder:
    """Builds answers. Every method returns None if the name has no record of the type `kind`."""

    def __init__(
        self,
        config: DnsConfig,
        records: RecordBuilder,
        own_addresses: Sequence[str],
        addresses_of: Callable[[Backend], Sequence[str]],
    ) -> None:
        """Create the builder. `addresses_of` returns the IP addresses of a backend now."""
        self._config, self._records = config, records
        self._own_addresses, self._addresses_of = tuple(own_addresses), addresses_of

    def service(self, owner: bytes, backends: Usable, kind: int) -> Answers | None:
        """Return the answers about the name of a service, `owner` in wire form."""
        if kind not in (wire.A, wire.AAAA):
            return self.srv(owner, backends, kind)
        found = _some(addresses(backends, self._addresses_of, ipv6=kind == wire.AAAA))
        return self._answers(tuple(map(self._records.address, found)))

    def srv(self, owner: bytes, backends: Usable, kind: int) -> Answers | None:
        """Return the answers about a name that has SRV records alone."""
        if kind != wire.SRV:
            return self._any(kind)
        records = _some(srv_records(backends, self._config.backup))
        additional = (
            b"" if each.address is None else self._records.additional_address(owner, each.address) for each in records
        )
        rotating = sum(each.priority == records[0].priority for each in records)
        return self._answers(tuple(map(self._records.srv, records)), tuple(additional), rotating)

    def address(self, address: str, kind: int) -> Answers | None:
        """Return the answers about the name of an IP address."""
        if kind != (wire.AAAA if ":" in address else wire.A):
            return self._any(kind)
        return self._answers((self._records.address(address),))

    def server(self, kind: int) -> Answers | None:
        """Return the answers about the name of this server."""
        if kind not in (wire.A, wire.AAAA):
            return self._any(kind)
        own = (each for each in self._own_addresses if (":" in each) == (kind == wire.AAAA))
        return self._answers(tuple(map(self._records.address, own)))

    def domain(self, soa: bytes, kind: int) -> Answers | None:
        """Return the answers about the domain itself; `soa` is the SOA record without its owner."""
        if kind == wire.SOA:
            return self._answers((pointer(0) + soa,))
        if kind == wire.NS:
            return self._answers((self._records.ns(SERVER),))
        return self._any(kind)

    def _any(self, kind: int) -> Answers | None:
        return self._answers((self._records.any(),)) if kind == wire.ANY else None

    def _answers(
        self, records: Sequence[bytes], additional: Sequence[bytes] = (), rotating: int | None = None
    ) -> Answers | None:
        if not records:
            return None
        return Answers(records, additional, rotating=rotating, most=self._config.max_answers)


def _some(records: tuple[T, ...]) -> tuple[T, ...]:
    """Return as many of the records as a message can have, in their order; the choice is another after each change."""
    if len(records) <= MOST_RECORDS:
        return records
    chosen = sorted(random.sample(range(len(records)), MOST_RECORDS))
    return tuple(records[number] for number in chosen)
