"""Models of xDS clients over both variants of the protocol, with a network that delays messages in both directions."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from discovery_xds.protocol.catalog import TYPE_URLS, Catalog, Kind, Resource, changes_between
from discovery_xds.protocol.messages import Responses, resource_of
from discovery_xds.protocol.stream import DeltaStream, SotwStream, Stream

SERVICES = ("a", "b", "c", "d")
UNLISTED = "d"
"""A service whose resources a wildcard does not stand for."""
_cache: dict[tuple[Kind, str, str], Resource] = {}


def made(kind: Kind, name: str, contents: str) -> Resource:
    """A resource whose contents are a text; equal resources are one object, as those that the plugin builds."""
    key = kind, name, contents
    if key not in _cache:
        needs = {(Kind.ENDPOINTS, name)} if kind is Kind.CLUSTER else ()
        _cache[key] = resource_of(kind, name, contents.encode(), listed=name != UNLISTED, needs=needs)
    return _cache[key]


def catalog_of(state: Mapping[str, int], revision: int) -> Catalog:
    """A catalog with a resource of each kind for each service; the contents name the version of the service."""
    return Catalog(
        revision, {kind: {name: made(kind, name, f"{name}={v}") for name, v in state.items()} for kind in Kind}
    )


class Client:
    """A client: what it wants and has. `bad` are the contents that it rejects."""

    stream_type: type[Stream]

    def __init__(self, responses: Responses, bad: frozenset[str]) -> None:
        self.shared = responses
        self.bad = bad
        self.catalog: Catalog | None = None
        self.revision = 0
        self.now = 0.0
        self.subscriptions: dict[Kind, tuple[set[str], bool]] = {}
        self.has: dict[Kind, dict[str, tuple[str, str]]] = {kind: {} for kind in Kind}
        """Version and contents by name."""
        self.told: set[str] = set()
        self.responses = 0
        self._open()

    def _open(self) -> None:
        self.stream = self.stream_type(self.shared)
        self.asked: set[Kind] = set()
        self.nonces: dict[Kind, str] = {}
        self.to_server: deque[Any] = deque()
        self.to_client: deque[bytes] = deque()
        if self.catalog is not None:
            self.stream.publish(self.catalog, changes_between(None, self.catalog))

    def reconnect(self) -> None:
        """A new stream, on which everything is subscribed to again."""
        self._open()
        for kind in self.subscriptions:
            self.ask(kind)

    def publish(self, catalog: Catalog) -> None:
        changes = changes_between(self.catalog, catalog)
        self.catalog, self.revision = catalog, catalog.revision
        if any(changes.values()):
            self.shared.forget()
        self.stream.publish(catalog, changes)

    def subscribe(self, kind: Kind, names: set[str], *, wildcard: bool) -> None:
        raise NotImplementedError

    def ask(self, kind: Kind, **answer: Any) -> None:
        raise NotImplementedError

    def parse(self, data: bytes) -> tuple[Kind, str, dict[str, tuple[str, str]], list[str]]:
        raise NotImplementedError

    def deliver(self) -> None:
        """The oldest request arrives at the server."""
        if self.to_server:
            message = type(self.to_server[0]).FromString(self.to_server.popleft().SerializeToString())
            self.stream.request(message)

    def serve(self) -> None:
        """The server sends what it may."""
        if (response := self.stream.response(self.now)) is not None:
            self.to_client.append(response.data)
            self.responses += 1

    def read(self) -> None:
        """The oldest response arrives at the client, which answers."""
        if not self.to_client:
            return
        kind, nonce, resources, removed = self.parse(self.to_client.popleft())
        self.nonces[kind] = nonce
        self.told |= {*resources, *removed}
        bad = sorted(name for name, (_, contents) in resources.items() if contents in self.bad)
        self.take(kind, {n: r for n, r in resources.items() if n not in bad}, set(resources), removed, bad)
        # Names in the reason identify the resource, as Envoy does for clusters and listeners.
        self.ask(kind, **({"error": f"bad: {', '.join(f'{name}!' for name in bad)}"} if bad else {"ok": True}))

    def take(
        self, kind: Kind, good: dict[str, tuple[str, str]], everything: set[str], removed: list[str], bad: list[str]
    ) -> None:
        """Apply a response as Envoy does."""
        has = self.has[kind]
        if bad and not kind.is_whole:
            return
        has.update({name: each for name, each in good.items() if self.wants(kind, name)})
        for name in removed:
            has.pop(name, None)

    def wants(self, kind: Kind, name: str) -> bool:
        names, wildcard = self.subscriptions[kind]
        return name in names or (wildcard and name != UNLISTED)

    def settle(self) -> None:
        """Every message arrives, and the time passes after which nothing waits any more."""
        for _ in range(1000):
            before = self.responses, len(self.to_server), len(self.to_client)
            self.deliver()
            self.serve()
            self.read()
            if before == (self.responses, 0, 0) and not self.to_server and not self.to_client:
                if self.stream.look_at is None:
                    return
                self.now = self.stream.look_at
        raise AssertionError("client and server talk forever")

    def wanted(self, kind: Kind) -> dict[str, str]:
        """The contents by name that the client is to have."""
        there = self.catalog.of(kind) if self.catalog is not None else {}
        return {
            name: AnyMessage.FromString(_any_of(resource)).value.decode()
            for name, resource in there.items()
            if self.wants(kind, name)
        }

    def known(self, kind: Kind) -> dict[str, str]:
        """The contents by name that the client has."""
        return {name: contents for name, (_, contents) in self.has[kind].items()}


class SotwClient(Client):
    """A client of the state-of-the-world protocol."""

    stream_type = SotwStream

    def subscribe(self, kind: Kind, names: set[str], *, wildcard: bool) -> None:
        wildcard = wildcard and kind.is_whole
        if not names and not wildcard and kind not in self.subscriptions:
            return  # an empty first request of these kinds is the wildcard
        self.subscriptions[kind] = set(names), wildcard
        self.has[kind] = {name: each for name, each in self.has[kind].items() if self.wants(kind, name)}
        self.ask(kind)

    def ask(self, kind: Kind, **answer: Any) -> None:
        names, wildcard = self.subscriptions[kind]
        explicit = {*names, "*"} if wildcard else names
        if not explicit and kind not in self.asked and kind.is_whole:
            return
        request = discovery_pb2.DiscoveryRequest(
            type_url=TYPE_URLS[kind], resource_names=sorted(explicit), response_nonce=self.nonces.get(kind, "")
        )
        if reason := answer.get("error"):
            request.error_detail.message = reason
        if kind not in self.asked:
            request.node.id = "model"
        self.asked.add(kind)
        self.to_server.append(request)

    def parse(self, data: bytes) -> tuple[Kind, str, dict[str, tuple[str, str]], list[str]]:
        response = discovery_pb2.DiscoveryResponse.FromString(data)
        (kind,) = (kind for kind, url in TYPE_URLS.items() if url == response.type_url)
        contents = [each.value.decode() for each in response.resources]
        return kind, response.nonce, {each.partition("=")[0]: ("", each) for each in contents}, []

    def take(
        self, kind: Kind, good: dict[str, tuple[str, str]], everything: set[str], removed: list[str], bad: list[str]
    ) -> None:
        gone = self.has[kind].keys() - everything if kind.is_whole else set()
        super().take(kind, good, everything, sorted(gone), bad)

    def known(self, kind: Kind) -> dict[str, str]:
        known = super().known(kind)
        if kind.is_whole or self.catalog is None:
            return known
        return {name: each for name, each in known.items() if name in self.catalog.of(kind)}  # see SotwStream


class DeltaClient(Client):
    """A client of the delta protocol."""

    stream_type = DeltaStream

    def subscribe(self, kind: Kind, names: set[str], *, wildcard: bool) -> None:
        explicit = {*names, "*"} if wildcard else set(names)
        if not explicit and kind not in self.subscriptions:
            return
        before_names, before_wildcard = self.subscriptions.get(kind, (set(), False))
        before = {*before_names, "*"} if before_wildcard else before_names
        self.subscriptions[kind] = set(names), wildcard
        self.has[kind] = {name: each for name, each in self.has[kind].items() if self.wants(kind, name)}
        self.ask(kind, add=explicit - before, drop=before - explicit)

    def ask(self, kind: Kind, **answer: Any) -> None:
        names, wildcard = self.subscriptions[kind]
        explicit = {*names, "*"} if wildcard else names
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=TYPE_URLS[kind])
        if kind not in self.asked:
            if not explicit:
                return
            request.node.id = "model"
            request.resource_names_subscribe.extend(sorted(explicit))
            request.initial_resource_versions.update({n: version for n, (version, _) in self.has[kind].items()})
        else:
            request.resource_names_subscribe.extend(sorted(answer.get("add", ())))
            request.resource_names_unsubscribe.extend(sorted(answer.get("drop", ())))
        if answer.get("ok") or answer.get("error"):
            request.response_nonce = self.nonces[kind]
        if reason := answer.get("error"):
            request.error_detail.message = reason
        self.asked.add(kind)
        self.to_server.append(request)

    def parse(self, data: bytes) -> tuple[Kind, str, dict[str, tuple[str, str]], list[str]]:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        (kind,) = (kind for kind, url in TYPE_URLS.items() if url == response.type_url)
        resources = {each.name: (each.version, each.resource.value.decode()) for each in response.resources}
        return kind, response.nonce, resources, list(response.removed_resources)


def _any_of(resource: Resource) -> bytes:
    return bytes(discovery_pb2.DiscoveryResponse.FromString(resource.sotw).resources[0].SerializeToString())
