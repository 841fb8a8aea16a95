"""Builds the answers about one name, for each type of records, from the backends of a service."""

from collections.abc import Sequence
from functools import partial

from discovery import Addresses
from discovery_dns import wire
from discovery_dns.answers import Answers
from discovery_dns.config import DnsConfig
from discovery_dns.names import NAME_SERVER
from discovery_dns.records import ServiceRecords
from discovery_dns.wire import RecordBuilder, pointer

SERVER = ".".join(NAME_SERVER)
"""This server's own name, relative to the domain."""


class AnswerBuilder:
    """Builds answers. Every method returns None if the name has no record of the type `kind`."""

    def __init__(self, config: DnsConfig, records: RecordBuilder, own_addresses: Sequence[str]) -> None:
        """Create the builder. `own_addresses` are the IP addresses of this server."""
        self._config, self._records, self._own_addresses = config, records, tuple(own_addresses)

    def service(self, owner: bytes, service: ServiceRecords, known: Addresses, kind: int) -> Answers | None:
        """Return the answers about the name of a service, `owner` in wire form.

        `known` has the addresses of host names.
        """
        if kind not in (wire.A, wire.AAAA):
            return self.srv(owner, service, known, kind)
        return self._answers(service.addresses(known, ipv6=kind == wire.AAAA))

    def srv(self, owner: bytes, service: ServiceRecords, known: Addresses, kind: int) -> Answers | None:
        """Return the answers about a name that has SRV records alone."""
        if kind != wire.SRV:
            return self._any(kind)
        records, addresses, rotating = service.targets(known)
        additional = partial(self._records.additional_address, owner)
        return Answers(records, addresses, additional, rotating=rotating, most=self._config.max_answers)

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

    def _answers(self, records: Sequence[bytes]) -> Answers | None:
        return Answers(records, most=self._config.max_answers) if records else None
