"""Resources by kind and name at a revision of the registry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType

_PREFIX = "type.googleapis.com/envoy."
_VERSION_BYTES = 8
"""Bytes of a hash of contents: a few thousand versions meet with a probability of about 1e-12."""


class Kind(IntEnum):
    """Kinds of resources, in the order of pushes: a resource comes after the resources that it refers to.

    The order is that of the chapter "Eventual consistency considerations" of the xDS protocol.
    """

    CLUSTER = 0
    ENDPOINTS = 1
    SECRET = 2
    LISTENER = 3
    ROUTES = 4

    @property
    def is_whole(self) -> bool:
        """True if a response of the state-of-the-world protocol has every resource of the kind."""
        return self in (Kind.CLUSTER, Kind.LISTENER)

    @property
    def label(self) -> str:
        """Name of the kind's discovery service, for people and metrics."""
        return ("cds", "eds", "sds", "lds", "rds")[self]


TYPE_URLS: Mapping[Kind, str] = {
    Kind.CLUSTER: f"{_PREFIX}config.cluster.v3.Cluster",
    Kind.ENDPOINTS: f"{_PREFIX}config.endpoint.v3.ClusterLoadAssignment",
    Kind.SECRET: f"{_PREFIX}extensions.transport_sockets.tls.v3.Secret",
    Kind.LISTENER: f"{_PREFIX}config.listener.v3.Listener",
    Kind.ROUTES: f"{_PREFIX}config.route.v3.RouteConfiguration",
}
KINDS: Mapping[str, Kind] = {url: kind for kind, url in TYPE_URLS.items()}

Need = tuple[Kind, str]
"""The kind and the name of a resource that another resource needs."""
Changes = Mapping[Kind, frozenset[str]]
"""Names of the resources of each kind that differ between two catalogs."""


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A resource in the forms that streams send: compared by identity.

    `version` follows from the contents alone. `sotw` and `delta` are the resource as a field of a response of the
    state-of-the-world and of the delta protocol. A resource that is not `listed` is sent only to clients that name it.
    `needs` are the endpoints and the secrets that a cluster needs.
    """

    name: str
    version: str
    sotw: bytes = b""
    delta: bytes = b""
    listed: bool = True
    needs: frozenset[Need] = frozenset()


def version_of(*parts: bytes) -> str:
    """Return the version of contents: equal for equal contents, in any process."""
    digest = blake2b(digest_size=_VERSION_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class Catalog:
    """Every resource at a revision of the registry. Immutable."""

    def __init__(self, revision: int, resources: Mapping[Kind, Mapping[str, Resource]]) -> None:
        """Keep `resources`, which do not change any more."""
        self.revision = revision
        self._resources = resources

    def of(self, kind: Kind) -> Mapping[str, Resource]:
        """Return the resources of a kind by name."""
        return self._resources.get(kind, _NONE)

    @cached_property
    def listed(self) -> Mapping[Kind, frozenset[str]]:
        """Names of the resources that a wildcard stands for."""
        return {kind: frozenset(name for name, each in self.of(kind).items() if each.listed) for kind in Kind}


def changes_between(before: Catalog | None, after: Catalog) -> Changes:
    """Return the changes from `before` to `after`. None stands for no resources."""
    return {kind: frozenset(_changed(before.of(kind) if before else _NONE, after.of(kind))) for kind in Kind}


def _changed(before: Mapping[str, Resource], after: Mapping[str, Resource]) -> Iterable[str]:
    if before is after:
        return
    for name, resource in after.items():
        known = before.get(name)
        if known is not resource and (known is None or known.version != resource.version):
            yield name
    yield from before.keys() - after.keys()


_NONE: Mapping[str, Resource] = MappingProxyType({})
