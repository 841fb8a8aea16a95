"""The domain: which names exist, and the answers to questions about each name, which are built when first asked for."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain

from discovery import Addresses, Backend, Service, Snapshot, diff
from discovery_dns.answers import Answers, Body, body
from discovery_dns.builder import SERVER, AnswerBuilder
from discovery_dns.config import DnsConfig
from discovery_dns.hosts import Hosts
from discovery_dns.names import NAME_SERVER, NoNameError, address_name, ancestors, service_name, srv_name
from discovery_dns.names import wire as labels_in_wire_form
from discovery_dns.records import Usable, addresses, srv_records, usable
from discovery_dns.wire import AAAA, A, RecordBuilder, pointer

_SERIALS = 2**32
"""Serial numbers of an SOA record (RFC 1982)."""


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


class _Served:
    """A service with a name: `usable` has the backends of its answers."""

    def __init__(self, service: Service, config: DnsConfig) -> None:
        self.service = service
        self._config = config

    @cached_property
    def usable(self) -> Usable:
        return usable(self.service.backends, self._config.backup)


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
        self.left_out: dict[str, str] = {}
        """Services without a name, or without the name of their SRV records, with the reasons."""
        self._config, self._records = config, records
        self._build = AnswerBuilder(config, records, own_addresses, self._addresses_of)
        self._nodes: dict[bytes, Node] = {}
        self._between: Counter[bytes] = Counter()  # names below the domain, with the number of nodes below each
        self._snapshot: Snapshot | None = None
        self._addresses: Addresses | None = None
        self._hosts = Hosts(self._put_address, self._drop_address)
        self._claims: defaultdict[bytes, set[str]] = defaultdict(set)  # services by their names in the domain
        self._served: dict[bytes, _Served] = {}  # the services that have these names
        self._soa = b""
        self._put(labels_in_wire_form(NAME_SERVER) + self.apex, self._build.server)
        self._put_domain()

    def update(self, snapshot: Snapshot, known: Addresses | None) -> None:
        """Follow `snapshot`, with the `known` addresses of host names."""
        changes = diff(self._snapshot, snapshot)
        moved = tuple(self._hosts.services_with_changes(self._addresses, known))
        self._snapshot, self._addresses, self.revision = snapshot, known, snapshot.revision
        changed = {each.service for each in chain(changes.added, changes.updated, changes.removed)}
        served = {each for each in changed if self._config.serves(each)}
        for backend in changes.removed:
            self._hosts.remove(backend)
        for backend in chain(changes.added, changes.updated):
            if backend.service in served:
                self._hosts.put(backend)
        owners = [self._claim(name, exists=name in snapshot.services) for name in sorted(served.union(moved))]
        for owner in dict.fromkeys(filter(None, owners)):
            self._settle(owner, snapshot)
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

    def lines(self) -> Iterator[str]:
        """Yield the records of the services, each on one line in the form of a zone file."""
        ttl, domain = int(self._config.ttl), self._config.domain
        for served in sorted(self._served.values(), key=lambda each: each.service.name):
            name = served.service.name.lower()
            for ipv6, kind in ((False, "A"), (True, "AAAA")):
                for address in addresses(served.usable, self._addresses_of, ipv6=ipv6):
                    yield f"{name}.{domain}. {ttl} IN {kind} {address}"
            for each in srv_records(served.usable, self._config.backup):
                target = each.target if each.address is None else f"{each.target}.{domain}"
                data = f"{each.priority} {each.weight} {each.port} {target}."
                yield f"_{name}._tcp.{domain}. {ttl} IN SRV {data}"

    def _addresses_of(self, backend: Backend) -> Sequence[str]:
        if not backend.is_named:
            return (backend.host,)
        return (self._addresses or {}).get((backend.host, backend.port), ())

    def _claim(self, service: str, *, exists: bool) -> bytes | None:
        """Add or remove the service's claim to its name, and return the name; None if no name is possible."""
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

    def _settle(self, owner: bytes, snapshot: Snapshot) -> None:
        """Give the name `owner` to one of the services that claim the name; domain names ignore case."""
        before = self._served.pop(owner, None)
        claims = sorted(self._claims[owner], key=lambda each: (each != each.lower(), each))
        if not claims:
            del self._claims[owner]
            self._drop(owner)
            if before is not None:
                self._drop_srv(before.service.name)
            return
        first, *others = claims
        for other in others:
            self.left_out[other] = f"domain names ignore case, and the service {first!r} has the name"
        self.left_out.pop(first, None)
        served = self._served[owner] = _Served(snapshot.services[first], self._config)
        self._put(owner, lambda kind: self._build.service(owner, served.usable, kind))
        try:
            srv_owner = srv_name(first, self.apex)
        except NoNameError as error:
            self.left_out[first] = f"no name for SRV records by RFC 2782: {error}"
        else:
            self._put(srv_owner, lambda kind: self._build.srv(srv_owner, served.usable, kind))

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
