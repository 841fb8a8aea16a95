"""The subscription of a stream to a kind of resources: names that the client wants, and resources that it has."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from discovery_xds.protocol.catalog import Catalog, Kind, Resource
from discovery_xds.protocol.messages import Response

WILDCARD = "*"
"""Name that stands for every listed resource."""

_WORDS = re.compile(r"[\w./:\[\]-]*[\w/\]-]")
"""Words in a client's reason, which may be names of resources."""


class TooManyNamesError(Exception):
    """A client subscribes to more names than `Limits.names`."""


class Due(NamedTuple):
    """Resources to be sent, and names of resources that the client is to be told not to exist."""

    resources: tuple[Resource, ...]
    removed: tuple[str, ...]


class Answer(Enum):
    """What a client has said of a resource: applied it, nothing since it was sent, or it was not sent yet."""

    CONFIRMED = "confirmed"
    SENT = "sent"
    WAITING = "waiting"


class Subscription:
    """The names of a kind that a client wants, and the resources that the client has.

    `known` has the resources that were sent and not withdrawn. `dirty` are the names whose resource in `known` may be
    another than that of the catalog. `unanswered` are names that the client is to be told of even if no resource has
    the name. `owed` is True if an answer is due, even an empty one. `unconfirmed` is the response that the client has
    neither confirmed nor rejected, and `told` are the names that were new to the client in that response. `suspects`
    are the names in a response that was rejected as a whole. `rejected` has the client's reason by the name of a
    resource.
    """

    def __init__(self, kind: Kind, most_names: int) -> None:
        """Begin without names. The client may subscribe to `most_names`."""
        self.kind = kind
        self._most_names = most_names
        self.wildcard = False
        self.had_names = False
        self.names: set[str] = set()
        self.known: dict[str, Resource] = {}
        self.dirty: set[str] = set()
        self.unanswered: set[str] = set()
        self.owed = False
        self.nonce = ""
        self.unconfirmed: Response | None = None
        self.told: frozenset[str] = frozenset()
        self.suspects: set[str] = set()
        self.rejected: dict[str, str] = {}

    def target(self, catalog: Catalog, name: str) -> Resource | None:
        """Return the resource that the client is to have under `name`; None if it is to have none."""
        resource = catalog.of(self.kind).get(name)
        if resource is None or name in self.names or (self.wildcard and resource.listed):
            return resource
        return None

    def answer(self, catalog: Catalog, name: str) -> Answer | str | None:
        """Return what the client says of the resource `name` of `catalog`: a text is its reason to reject it.

        None if the client does not subscribe to the resource, or there is none.
        """
        target, known = self.target(catalog, name), self.known.get(name)
        if target is None:
            return None
        if known is None or known.version != target.version:
            return Answer.WAITING
        if self.unconfirmed is not None and name in self.told:
            return Answer.SENT
        return self.rejected.get(name, Answer.CONFIRMED)

    def add(self, names: Iterable[str], catalog: Catalog | None, having: Mapping[str, str] | None = None) -> None:
        """Subscribe to `names`. The resource of a name is sent, unless the client has it at the version in `having`."""
        for name in names:
            if name == WILDCARD:
                self.become_wildcard(catalog)
                continue
            self.had_names = True
            self.names.add(name)
            if having is None or name not in having:
                self._forget(name)
            self.dirty.add(name)
            self.unanswered.add(name)
        if len(self.names) > self._most_names:
            raise TooManyNamesError(f"more than {self._most_names} names")

    def become_wildcard(self, catalog: Catalog | None) -> None:
        """Subscribe to every listed resource."""
        self.wildcard = self.owed = True
        if catalog is not None:
            self.dirty |= catalog.listed[self.kind]

    def remove(self, names: Iterable[str], catalog: Catalog | None) -> None:
        """Unsubscribe from `names`.

        A client that unsubscribes from a name while it has the wildcard is told what it has under the name now.
        """
        for name in names:
            if name == WILDCARD:
                self._end_wildcard()
                continue
            if name not in self.names:
                continue
            self.names.discard(name)
            self._forget(name)
            if self.wildcard and catalog is not None:
                self.dirty.add(name)
                self.unanswered.add(name)

    def replace(self, names: Iterable[str], catalog: Catalog | None) -> None:
        """Subscribe to exactly `names`, as in the state-of-the-world protocol."""
        wanted = set(names)
        wildcard = WILDCARD in wanted or (not wanted and not self.had_names and self.kind.is_whole)
        self.had_names = self.had_names or bool(wanted)
        wanted.discard(WILDCARD)
        if wildcard and not self.wildcard:
            self.become_wildcard(catalog)
        elif self.wildcard and not wildcard:
            self._end_wildcard()
        for name in self.names - wanted:
            self.names.discard(name)
            if not (self.wildcard and catalog is not None and name in catalog.listed[self.kind]):
                self._forget(name)
        if added := wanted - self.names:
            self.add(added, catalog)
            self.owed = self.owed or self.kind.is_whole

    def publish(self, catalog: Catalog, changed: frozenset[str]) -> bool:
        """Note that the resources of `changed` are others. Return True if the client may have to be told."""
        if not changed:
            return False
        if self.wildcard:
            listed = catalog.listed[self.kind]
            concerned = {name for name in changed if name in listed or name in self.known or name in self.names}
        else:
            concerned = self.names & changed
        self.dirty |= concerned
        return bool(concerned)

    def begin(self, catalog: Catalog) -> None:
        """Note that there is a first catalog."""
        self.dirty |= self.names | self.known.keys()
        if self.wildcard:
            self.dirty |= catalog.listed[self.kind]

    def due(self, catalog: Catalog, *, final: bool) -> Due:
        """Return what the client is to be told now.

        The removal of a resource that the client has is due only with `final`. Names about which nothing has to be said
        are no longer dirty afterwards.
        """
        resources: list[Resource] = []
        removed: list[str] = []
        for name in sorted(self.dirty):
            target = self.target(catalog, name)
            known = self.known.get(name)
            if target is not None and (known is None or known.version != target.version):
                resources.append(target)
            elif target is not None or (known is None and name not in self.unanswered):
                self.dirty.discard(name)
            elif final or known is None:
                removed.append(name)
        return Due(tuple(resources), tuple(removed))

    def isolate(self, due: Due) -> Due:
        """Return the part of `due` to be sent at once.

        The resources of a response that was rejected as a whole go one by one, so that only the faulty one is rejected
        again.
        """
        if not self.suspects:
            return due
        good = tuple(each for each in due.resources if each.name not in self.suspects)
        return Due(good, due.removed) if good or due.removed else Due(due.resources[:1], ())

    def sent(self, response: Response, told: Due) -> None:
        """Note that `response` is sent, of which `told` is new to the client."""
        self.owed = False
        self.nonce = response.nonce
        self.unconfirmed = response
        self.told = frozenset(each.name for each in told.resources)
        for each in response.resources:
            self.known[each.name] = each
        self.dirty -= self.told
        self.unanswered -= self.told
        self.withdraw(told.removed)

    def send_again(self, names: Iterable[str]) -> None:
        """Have the resources of `names` sent again, although the client has got them."""
        for name in names:
            self.known.pop(name, None)
            self.dirty.add(name)

    def withdraw(self, names: Iterable[str]) -> None:
        """Note that the client has, and knows to have, no resources of these names."""
        for name in names:
            self._forget(name)

    def confirm(self) -> Response | None:
        """Note that the client has applied the unconfirmed response, and return the response."""
        response = self._answered()
        for each in response.resources if response is not None else ():
            self.suspects.discard(each.name)
            self.rejected.pop(each.name, None)
        return response

    def reject(self, reason: str) -> Response | None:
        """Note that the client has rejected the unconfirmed response, and return the response.

        What was rejected is not sent again before it changes.
        """
        response = self._answered()
        if response is None:
            return None
        if not self.kind.is_whole and len(self.told) > 1:
            # Envoy may drop all endpoints or routes of a response, where it applies clusters and listeners one by one.
            for name in self.told:
                self.known.pop(name, None)
            self.suspects |= self.told
            self.dirty |= self.told
            return response
        self.suspects -= self.told
        sent = {each.name for each in response.resources}
        names = {name for name in sent if self.wildcard or name in self.names}
        told = self.told & names
        if named := sent & set(_WORDS.findall(reason)):
            for name in told - named:  # applied: a client applies each resource by itself
                self.rejected.pop(name, None)
        # The client may have given up the named resources meanwhile, which then concern nobody.
        self.rejected.update(dict.fromkeys(named & names if named else told or names, reason))
        return response

    def _answered(self) -> Response | None:
        """Return the unconfirmed response, which is answered now.

        The client may have unsubscribed from a name of the response, and subscribed to the wildcard, before it read the
        response: it has the resource, which is to be sent again.
        """
        response, self.unconfirmed = self.unconfirmed, None
        for each in response.resources if response is not None and self.wildcard else ():
            if each.name not in self.known:
                self.dirty.add(each.name)
                self.unanswered.add(each.name)
        return response

    @property
    def is_settled(self) -> bool:
        """True if the client has applied all wanted resources, as far as is known before the next look at `dirty`."""
        return not (self.owed or self.dirty or self.unconfirmed or self.rejected)

    def _end_wildcard(self) -> None:
        self.wildcard = False
        for name in [name for name in self.known if name not in self.names]:
            self._forget(name)
        self.dirty &= self.names
        self.unanswered &= self.names

    def _forget(self, name: str) -> None:
        self.known.pop(name, None)
        self.dirty.discard(name)
        self.unanswered.discard(name)
        self.suspects.discard(name)
        self.rejected.pop(name, None)
