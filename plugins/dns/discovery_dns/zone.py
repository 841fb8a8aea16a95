"""The domain: which names exist, and the answers to questions about each name, which are built when first asked for."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from discovery import Addresses, Changes, Snapshot, diff
from discovery_dns.answers import Answers, Body, body
from discovery_dns.builder import SERVER, AnswerBuilder
from discovery_dns.config import DnsConfig
from discovery_dns.hosts import Hosts
from discovery_dns.names import NAME_SERVER, NoNameError, address_name, ancestors, service_name, srv_name
from discovery_dns.names import wire as labels_in_wire_form
from discovery_dns.records import ServiceRecords
from discovery_dns.wire import AAAA, A, RecordBuilder, pointer, text

_SERIALS = 2**32
"""Serial numbers of an SOA record (RFC 1982)."""
_STEP = 32
"""Backends, or names, for which an update works before it lets queries be answered: 1 ms at most."""
_EAGER = 256
"""Backends of a service from which on an update builds the records. The first question builds fewer, in 2 ms."""


class Node:
    """A name of the domain, with the answers that have been asked for. From one thread."""

    __slots__ = ("_answers", "_build")

    def __init__(self, build: Callable[[int], Answers | None]) -> None:
        """Create the node. `build` returns the answers for a type of records, or None if there is no such record."""
        self._build = build
        self._answers: dict[int, Answers | None] = {}

    def answers(self, kind: int) -> Answers | None:
        """Return the answers for the type `kind` of records, None if the name has no such record."""
        if kind in self._answers:
            return self._answers[kind]
        answers = self._build(kind)
        if answers is not None or kind in (A, AAAA):  # of the others a client could name 65,536
            self._answers[kind] = answers
        return answers


class Zone:
    """The names of the domain for the last update. From one thread.

    An update keeps the answers of every service that has not changed, whose backends go on taking turns.
    """

    def __init__(self, config: DnsConfig, own_addresses: Sequence[str]) -> None:
        """Create an empty zone. `own_addresses` are the IP addresses of this server."""
        records = RecordBuilder(config.domain, int(config.ttl), int(config.negative_ttl))
        self.apex = records.apex
        """The domain in wire form."""
        self.revision = 0
        """The revision of the last update."""
        self.snapshot: Snapshot | None = None
        """The snapshot of the last update."""
        self.left_out: dict[str, str] = {}
        """Services without a name, or without the name of their SRV records, with the reasons."""
        self._config, self._records = config, records
        self._build = AnswerBuilder(config, records, own_addresses)
        self._nodes: dict[bytes, Node] = {}
        self._between: Counter[bytes] = Counter()  # names below the domain, with the number of nodes below each
        self._known: Addresses = {}
        self._hosts = Hosts(self._put_address, self._drop_address)
        self._claims: defaultdict[bytes, set[str]] = defaultdict(set)  # services by their names in the domain
        self._served: dict[bytes, ServiceRecords] = {}  # the services that have these names
        self._soa = b""
        self._put(labels_in_wire_form(NAME_SERVER) + self.apex, self._build.server)
        self._put_domain()

    def update(self, snapshot: Snapshot, known: Addresses | None) -> None:
        """Follow `snapshot`, with the `known` addresses of host names, at once."""
        for _ in self.steps(snapshot, known):
            pass

    def steps(self, snapshot: Snapshot, known: Addresses | None, changes: Changes | None = None) -> Iterator[None]:
        """Follow `snapshot`, with the `known` addresses of host names, and yield after every few hundred microseconds.

        Between two steps the zone answers; each name is then as before the update or as after it. `changes` are those
        since `self.snapshot`; without them the snapshots are compared, which takes 1 us for each backend that differs.
        """
        known = known or {}
        changes = changes or diff(self.snapshot, snapshot)
        moved = tuple(self._hosts.services_with_changes(self._known, known))
        self.snapshot, self._known, self.revision = snapshot, known, snapshot.revision
        changed = {each.service for each in chain(changes.added, changes.updated, changes.removed)}
        served = {each for each in changed if self._config.serves(each)}
        new = (each for each in chain(changes.added, changes.updated) if each.service in served)
        yield from _steps(map(self._hosts.put, new))
        yield from _steps(map(self._hosts.remove, changes.removed))
        owners: dict[bytes, None] = {}
        for number, name in enumerate(sorted(served.union(moved)), 1):
            owner = self._claim(name, exists=name in snapshot.services)
            if owner is not None:
                owners[owner] = None
            if number % _STEP == 0:
                yield
        for number, owner in enumerate(owners, 1):  # once every claim is known
            yield from self._settle(owner, snapshot)
            if number % _STEP == 0:
                yield
        # Last: until their services are settled, SRV records have these addresses.
        yield from _steps(self._hosts.let_go())
        self._put_domain()

    def node(self, name: bytes) -> Node | None:
        """Return the node of a name, in lower case and wire form; None if the name has no record."""
        return self._nodes.get(name)

    def exists(self, name: bytes) -> bool:
        """Return True if the name, or a name below, has a record."""
        return name in self._nodes or name in self._between

    def denial(self, name: bytes) -> Body:
        """Return the answer that there is no such record; `name` is the domain or a name below, in wire form."""
        return body((), authority=(pointer(len(name) - len(self.apex)) + self._soa,))

    @property
    def services(self) -> int:
        """The number of services with a name."""
        return len(self._served)

    @property
    def known(self) -> Addresses:
        """The addresses of host names at the last update."""
        return self._known

    def of_service(self, service: str) -> ServiceRecords | None:
        """Return the records of a service; None if it has no name of its own."""
        try:
            records = self._served.get(service_name(service, self.apex))
        except NoNameError:
            return None
        return records if records is not None and records.service.name == service else None

    def lines(self) -> Iterator[str]:
        """Yield the records of the services, each on one line in the form of a zone file."""
        domain = self._config.domain
        for served in sorted(self._served.values(), key=lambda each: each.service.name):
            name = served.service.name.lower()
            for record in chain(*(served.addresses(self._known, ipv6=ipv6) for ipv6 in (False, True))):
                yield f"{name}.{domain}. {text(record)}"
            owner = name if served.service.name in self.left_out else f"_{name}._tcp"
            for record in served.targets(self._known).records:
                yield f"{owner}.{domain}. {text(record)}"

    def _claim(self, service: str, *, exists: bool) -> bytes | None:
        """Add or remove the service's claim to its name, and return the name; None if no name is possible."""
        if not exists:
            self.left_out.pop(service, None)
        try:
            owner = service_name(service, self.apex)
        except NoNameError as error:
            if exists:
                self.left_out[service] = str(error)
            return None
        if exists:
            self._claims[owner].add(service)
        else:
            self._claims[owner].discard(service)
        return owner

    def _settle(self, owner: bytes, snapshot: Snapshot) -> Iterator[None]:
        """Give the name `owner` to the first of the services that claim the name; domain names ignore case."""
        before = self._served.get(owner)
        if not self._claims[owner]:
            del self._claims[owner]
            self._drop(owner)
            if before is not None:
                del self._served[owner]
                self._drop_srv(before.service.name)
            return
        first, *others = sorted(self._claims[owner])
        service = snapshot.services[first]
        records = ServiceRecords(service, self._config.backup, self._records, before)
        if len(service) >= _EAGER:
            yield from records.build()
        for other in others:
            self.left_out[other] = f"domain names ignore case, and the service {first!r} has the name"
        self.left_out.pop(first, None)
        self._served[owner] = records
        self._put(owner, lambda kind: self._build.service(owner, records, self._known, kind))
        try:
            srv_owner = srv_name(first, self.apex)
        except NoNameError as error:
            self.left_out[first] = f"no name for SRV records by RFC 2782: {error}"
        else:
            self._put(srv_owner, lambda kind: self._build.srv(srv_owner, records, self._known, kind))

    def _drop_srv(self, service: str) -> None:
        try:
            self._drop(srv_name(service, self.apex))
        except NoNameError:
            return

    def _put_address(self, address: str) -> None:
        self._put(address_name(address, self.apex), lambda kind: self._build.address(address, kind))

    def _drop_address(self, address: str) -> None:
        self._drop(address_name(address, self.apex))

    def _put_domain(self) -> None:
        soa = self._soa = self._records.soa(SERVER, self.revision % _SERIALS)
        self._nodes[self.apex] = Node(lambda kind: self._build.domain(soa, kind))

    def _put(self, name: bytes, build: Callable[[int], Answers | None]) -> None:
        """Put a new node in place of the node of `name`, if there is any."""
        if name not in self._nodes:
            self._between.update(ancestors(name, self.apex))
        self._nodes[name] = Node(build)

    def _drop(self, name: bytes) -> None:
        if self._nodes.pop(name, None) is not None:
            for each in ancestors(name, self.apex):
                self._between[each] -= 1
                if not self._between[each]:
                    del self._between[each]


def _steps(work: Iterable[object]) -> Iterator[None]:
    """Do the `work`, and yield now and then."""
    for number, _ in enumerate(work, 1):
        if number % _STEP == 0:
            yield
