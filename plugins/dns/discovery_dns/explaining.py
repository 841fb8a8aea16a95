"""What clients are told of a backend: the names and records in which it stands, or why it stands in none. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from discovery import Backend, LastResort, LeftOut
from discovery_dns.config import DnsConfig
from discovery_dns.names import ADDRESSES, PROTOCOL, address_label
from discovery_dns.records import ServiceRecords, is_backup
from discovery_dns.wire import text
from discovery_dns.zone import Zone


def lines_of(zone: Zone, config: DnsConfig, backends: Iterable[Backend]) -> dict[str, Sequence[str]]:
    """Return the lines for each of `backends`, by key, as `Consumer.explain` does."""
    answers: dict[str, _Answers | LeftOut | None] = {}
    found: dict[str, Sequence[str]] = {}
    for backend in backends:
        if backend.service not in answers:
            answers[backend.service] = _answers(zone, config, backend.service)
        told = answers[backend.service]
        if told is not None:
            found[backend.key] = told if isinstance(told, LeftOut) else told.of(backend)
    return found


class _Answers:
    """The answers about the names of a service."""

    def __init__(self, zone: Zone, config: DnsConfig, records: ServiceRecords) -> None:
        self._known, self._config, self._records = zone.known, config, records
        self._addresses = {each for ipv6 in (False, True) for each in records.addresses(zone.known, ipv6=ipv6)}
        self._targets = set(records.targets(zone.known).records)
        service = records.service.name.lower()
        self._name = f"{service}.{config.domain}."
        has_no_srv_name = records.service.name in zone.left_out
        self._srv_name = self._name if has_no_srv_name else f"_{service}.{PROTOCOL}.{config.domain}."

    def of(self, backend: Backend) -> Sequence[str]:
        """Return the lines of the backend; `LastResort` if clients are told of it although it gets no new work."""
        lines = tuple(self._lines(backend))
        own = self._records.of(backend, self._known)
        stands = own.srv in self._targets or not self._addresses.isdisjoint(own.addresses)
        is_last = stands and not backend.accepts_work and not self._records.takes_work
        return LastResort(lines) if is_last else lines

    def _lines(self, backend: Backend) -> Iterator[str]:
        """Yield the records that have the backend, each on a line of a zone file, and why others have it not."""
        own = self._records.of(backend, self._known)
        addresses = [each for each in own.addresses if each in self._addresses]
        srv = own.srv in self._targets
        yield from (f"{self._name} {text(each)}" for each in addresses)
        if srv:
            yield f"{self._srv_name} {text(own.srv)}"
        if not backend.is_named:
            name = f"{address_label(backend.host)}.{ADDRESSES}.{self._config.domain}."
            yield from (f"{name} {text(each)}" for each in own.addresses)
        if not srv or not addresses:
            what = "answer with A, AAAA or SRV records" if not srv else "answer with A or AAAA records"
            yield f"{self._name} has it in no {what}: {self._why_not(backend, srv=srv, known=bool(own.addresses))}"
        most = self._config.max_answers
        if most is not None and max(len(self._addresses), len(self._targets)) > most:
            yield f"{self._name} has at most {most} records in an answer: the backends take turns"

    def _why_not(self, backend: Backend, *, srv: bool, known: bool) -> str:
        if not srv and not backend.accepts_work:
            return "it gets no new work, and other backends of the service do"
        if not known:
            return f"no address is known for {backend.host}"
        if is_backup(backend, self._config.backup):
            return "it is a backup, and a backend that is none has an address"
        return "other backends of the service have addresses"


def _answers(zone: Zone, config: DnsConfig, service: str) -> _Answers | LeftOut | None:
    """Return the answers about a service; None for a service that the zone does not know."""
    if not config.serves(service):
        return LeftOut(f"its option 'services' selects {', '.join(config.services)}")
    records = zone.of_service(service)
    if records is not None:
        return _Answers(zone, config, records)
    reason = zone.left_out.get(service)
    return LeftOut(f"the service has no domain name: {reason}") if reason is not None else None
