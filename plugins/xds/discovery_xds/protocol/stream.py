"""The stream of a client: requests come in, and the next response follows from the catalog at that moment.

A client's state is the latest catalog's in the end, whatever came between: a stream keeps no queue. Of each kind at
most one response is on the way; what changes meanwhile goes into the next one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from discovery.toolkit import printable
from discovery_xds.limits import LIMITS, Limits
from discovery_xds.protocol.catalog import KINDS, Catalog, Changes, Kind, Need, Resource
from discovery_xds.protocol.messages import Response, Responses
from discovery_xds.protocol.subscription import Due, Subscription

WARMING_SECONDS = 1.0
"""Seconds that listeners and routes wait for the endpoints and the secrets of a cluster that was just sent.

Envoy asks for these within milliseconds; a client that never asks gets its routes a second later.
"""
_MOST_CHARACTERS = 1000
"""Characters of a client's name or reason that are kept: enough for the reasons of Envoy, which name the field."""
_MOST_UNKNOWN = 20
"""Unknown types of resources that are kept for a stream, so that a client cannot fill the memory."""


class Answered(NamedTuple):
    """A request confirms (`reason` is None) or rejects a response."""

    response: Response
    reason: str | None = None


class Stream(ABC):
    """The state of a stream. `request` and `publish` change it, and `response` returns what is to be sent next."""

    protocol = ""
    """Name of the variant of the protocol."""

    def __init__(self, responses: Responses, limits: Limits = LIMITS) -> None:
        """Begin without a subscription and without a catalog."""
        self._responses = responses
        self._limits = limits
        self._catalog: Catalog | None = None
        self._warming: dict[str, frozenset[Need]] = {}
        """What a cluster that the client has just got still needs, by cluster."""
        self._warming_until = 0.0
        self._replaced: frozenset[str] = frozenset()
        """Endpoints of the clusters in the last response of which the client had another version."""
        self.node_id = ""
        self.node_cluster = ""
        self.user_agent = ""
        self.subscriptions: dict[Kind, Subscription] = {}
        self.unknown: set[str] = set()
        self.live_revision: int | None = None
        self.look_at: float | None = None
        """When `response` may return another result although nothing has happened; None for never."""
        self.retry_at: float | None = None
        """When rejected secrets are sent again; None if there are none."""

    @property
    def is_settled(self) -> bool:
        """True if the client has applied every wanted resource of the latest catalog."""
        return self._catalog is not None and all(each.is_settled for each in self.subscriptions.values())

    @property
    def rejections(self) -> dict[str, str]:
        """The reasons by `KIND NAME` of each resource that the client has rejected and has not got since."""
        return {
            f"{kind.label} {name}": reason
            for kind, each in sorted(self.subscriptions.items())
            for name, reason in tuple(each.rejected.items())  # copied: metrics are read on another thread
        }

    def publish(self, catalog: Catalog, changes: Changes) -> bool:
        """Take over a catalog. Return True if `response` may have something to send."""
        first, self._catalog = self._catalog is None, catalog
        concerned = False
        for kind, each in self.subscriptions.items():
            if first:
                each.begin(catalog)
                concerned = True
            else:
                concerned |= each.publish(catalog, changes[kind])
        if not concerned:
            self._note_settled()
        return concerned

    def request(self, message: Any) -> Answered | None:
        """Take a request of the client. Return what the client says of a response. Raises TooManyNamesError."""
        if message.HasField("node") and not self.node_id:
            self.node_id, self.node_cluster = _text(message.node.id), _text(message.node.cluster)
            self.user_agent = _text(message.node.user_agent_name)
        kind = KINDS.get(message.type_url)
        if kind is None:
            if len(self.unknown) < _MOST_UNKNOWN:
                self.unknown.add(_text(message.type_url))
            return None
        subscription = self.subscriptions.get(kind)
        answered = None
        if subscription and subscription.unconfirmed and message.response_nonce == subscription.nonce:
            answered = self._answer(subscription, message)
        self._subscribe(kind, subscription, message)
        self._note_settled()
        return answered

    def response(self, now: float) -> Response | None:
        """Return the next response, which counts as sent, or None. `now` is the time in seconds."""
        catalog, self.look_at = self._catalog, None
        if catalog is None:
            return None
        self._retry_secrets(now)
        for kind, final in self._turns(now):
            subscription = self.subscriptions.get(kind)
            if subscription is None or subscription.unconfirmed is not None:
                continue
            told = self._due(subscription, catalog, final=final)
            if told is None:
                continue
            response = self._make(subscription, catalog, told, final=final)
            if kind is Kind.CLUSTER:
                self._warm(subscription, told, now)
            subscription.sent(response, told)
            return response
        self._note_settled()
        return None

    def _turns(self, now: float) -> Iterator[tuple[Kind, bool]]:
        """Yield the kinds that may be sent now, in order, and whether removals may be.

        Make before break: clusters with endpoints and secrets, then listeners and routes, and at the end removals of
        what neither listeners nor routes refer to any more.
        """
        yield Kind.CLUSTER, False
        yield Kind.ENDPOINTS, False
        yield Kind.SECRET, False
        clusters = self.subscriptions.get(Kind.CLUSTER)
        if clusters is not None and clusters.unconfirmed is not None:
            return
        if now < self._warming_until and self._is_warming():
            self.look_at = self._warming_until
            return
        self._warming.clear()
        yield Kind.LISTENER, True
        yield Kind.ROUTES, False
        for kind in (Kind.LISTENER, Kind.ROUTES):
            subscription = self.subscriptions.get(kind)
            if subscription is not None and subscription.unconfirmed is not None:
                return
        yield Kind.CLUSTER, True
        if clusters is not None and clusters.unconfirmed is not None:
            return
        yield Kind.ENDPOINTS, True
        yield Kind.ROUTES, True
        yield Kind.SECRET, True

    def _warm(self, clusters: Subscription, told: Due, now: float) -> None:
        """Have listeners and routes wait for the endpoints and the secrets of clusters that are sent."""
        for name in told.removed:
            self._warming.pop(name, None)
        self._replaced = frozenset(
            name
            for each in told.resources
            if each.name in clusters.known
            for kind, name in each.needs
            if kind is Kind.ENDPOINTS
        )
        if needs := {each.name: each.needs for each in told.resources if each.needs}:
            self._warming |= needs
            self._warming_until = now + WARMING_SECONDS

    def _is_warming(self) -> bool:
        """Return True if a cluster needs something that the client has not answered.

        Secrets are looked up each time: Envoy asks for none that it has, and gives up those that no cluster needs.
        """
        secrets = self.subscriptions.get(Kind.SECRET)
        there: set[Need] = set()
        if secrets is not None:
            unanswered = {each.name for each in secrets.unconfirmed.resources} if secrets.unconfirmed else set()
            there = {(Kind.SECRET, name) for name in secrets.known.keys() - unanswered}
        return any(not needs <= there for needs in self._warming.values())

    def _due(self, subscription: Subscription, catalog: Catalog, *, final: bool) -> Due | None:
        """Return what a response is to tell the client; None if no response is due."""
        if not (subscription.dirty or subscription.owed):
            return None
        due = subscription.isolate(subscription.due(catalog, final=final))
        return due if due.resources or due.removed or subscription.owed else None

    def _answer(self, subscription: Subscription, message: Any) -> Answered | None:
        if message.HasField("error_detail"):
            reason = _text(message.error_detail.message) or "no reason given"
            response = subscription.reject(reason)
            if self._catalog is not None and self.live_revision == self._catalog.revision:
                self.live_revision = None  # it was live with fewer subscriptions
        else:
            reason = None
            response = subscription.confirm()
        if response is None:
            return None
        if subscription.kind is Kind.CLUSTER:
            self._send_endpoints_again()  # also if the client has rejected other clusters of the response
            for name in subscription.rejected:
                self._warming.pop(name, None)
        elif self._warming and subscription.kind is Kind.ENDPOINTS:
            got = {(Kind.ENDPOINTS, each.name) for each in response.resources}
            self._warming = {name: missing for name, needs in self._warming.items() if (missing := needs - got)}
        return Answered(response, reason)

    def _send_endpoints_again(self) -> None:
        """Have the endpoints of replaced clusters sent again: Envoy's new cluster waits for them, without asking."""
        endpoints = self.subscriptions.get(Kind.ENDPOINTS)
        if endpoints is not None:
            endpoints.send_again(self._replaced & endpoints.known.keys())

    def _retry_secrets(self, now: float) -> None:
        secrets = self.subscriptions.get(Kind.SECRET)
        if secrets is None or secrets.unconfirmed is not None or not secrets.rejected:
            self.retry_at = None
        elif self.retry_at is None:
            self.retry_at = now + self._limits.retry
        elif now >= self.retry_at:
            self.retry_at = None
            secrets.send_again(secrets.rejected)

    def _note_settled(self) -> None:
        if self.is_settled and self._catalog is not None and self.subscriptions:
            self.live_revision = self._catalog.revision

    @abstractmethod
    def _subscribe(self, kind: Kind, subscription: Subscription | None, message: Any) -> None:
        """Take over the names of a request; `subscription` is None at the first request for a kind."""

    @abstractmethod
    def _make(self, subscription: Subscription, catalog: Catalog, told: Due, *, final: bool) -> Response:
        """Return the response that tells the client what is due."""


class SotwStream(Stream):
    """A stream of the state-of-the-world protocol (`StreamAggregatedResources`)."""

    protocol = "sotw"

    def _subscribe(self, kind: Kind, subscription: Subscription | None, message: Any) -> None:
        if subscription is None:
            # The nonce of a first request is that of another stream, and means nothing.
            subscription = self.subscriptions[kind] = Subscription(kind, self._limits.names)
            subscription.owed = kind.is_whole
        elif message.response_nonce != subscription.nonce:
            return  # sent before the client has read the latest response, which it answers with all names again
        subscription.replace(message.resource_names, self._catalog)

    def _due(self, subscription: Subscription, catalog: Catalog, *, final: bool) -> Due | None:
        due = super()._due(subscription, catalog, final=final)
        if due is None or subscription.kind.is_whole:
            return due
        # The absence of endpoints or routes has no message: the client drops them with their cluster or listener.
        subscription.withdraw(due.removed)
        return Due(due.resources, ()) if due.resources else None

    def _make(self, subscription: Subscription, catalog: Catalog, told: Due, *, final: bool) -> Response:
        kind = subscription.kind
        if not kind.is_whole:
            return self._responses.sotw(kind, told.resources, subscription.nonce)
        resources = self._whole(subscription, catalog, final)
        missing = sorted(subscription.names - {each.name for each in resources})
        return self._responses.sotw(kind, resources, subscription.nonce, missing)

    @staticmethod
    def _whole(subscription: Subscription, catalog: Catalog, final: bool) -> list[Resource]:
        """Return every wanted resource of the kind, and without `final` the resources that are to be removed later."""
        there = catalog.of(subscription.kind)
        names = {name for name in subscription.names if name in there}
        if subscription.wildcard:
            names |= catalog.listed[subscription.kind]
        kept = {} if final else {name: each for name, each in subscription.known.items() if name not in names}
        return [there[name] if name in names else kept[name] for name in sorted(names | kept.keys())]


class DeltaStream(Stream):
    """A stream of the delta protocol (`DeltaAggregatedResources`)."""

    protocol = "delta"

    def _subscribe(self, kind: Kind, subscription: Subscription | None, message: Any) -> None:
        having: dict[str, str] | None = None
        if subscription is None:
            subscription = self.subscriptions[kind] = Subscription(kind, self._limits.names)
            having = dict(message.initial_resource_versions)
            subscription.known = {name: Resource(name, version) for name, version in having.items()}
            subscription.dirty |= having.keys()
            if not message.resource_names_subscribe and kind.is_whole:
                subscription.become_wildcard(self._catalog)
        subscription.add(message.resource_names_subscribe, self._catalog, having)
        subscription.remove(message.resource_names_unsubscribe, self._catalog)

    def _make(self, subscription: Subscription, catalog: Catalog, told: Due, *, final: bool) -> Response:
        return self._responses.delta(subscription.kind, told.resources, told.removed, subscription.nonce)


def _text(value: str) -> str:
    """Return a client's text as a single line without control characters."""
    return printable(" ".join(value.split()))[:_MOST_CHARACTERS]
