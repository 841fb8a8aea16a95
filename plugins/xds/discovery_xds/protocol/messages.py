"""Responses as bytes: each resource is serialized once, and equal responses of many streams are the same object."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import NamedTuple

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any

from discovery_xds.protocol.catalog import TYPE_URLS, Kind, Need, Resource, version_of

_MOST_CACHED = 256
"""Responses that are kept to be shared: at a change most streams need one of very few."""
_NOT_FOUND = 5
"""The code NOT_FOUND of gRPC."""
_NO_SERVICE = "no such service in the registry"


class Response(NamedTuple):
    """A response with resources of a kind: its nonce, the serialized message, and the resources in the message."""

    kind: Kind
    nonce: str
    data: bytes
    resources: tuple[Resource, ...]


def resource_of(kind: Kind, name: str, contents: bytes, *, listed: bool = True, needs: Iterable[Need] = ()) -> Resource:
    """Return the resource with the serialized message `contents`."""
    version = version_of(contents)
    wrapped = Any(type_url=TYPE_URLS[kind], value=contents)
    delta = discovery_pb2.Resource(name=name, version=version, resource=wrapped)
    return Resource(
        name,
        version,
        discovery_pb2.DiscoveryResponse(resources=[wrapped]).SerializeToString(),
        discovery_pb2.DeltaDiscoveryResponse(resources=[delta]).SerializeToString(),
        listed,
        frozenset(needs),
    )


class Responses:
    """Makes responses. Streams that need the same resources get the same bytes, until `forget`."""

    def __init__(self) -> None:
        """Begin with the first nonce."""
        self._nonces = count(1)
        self._cached: dict[tuple[bool, Kind, tuple[Resource, ...], tuple[str, ...]], Response] = {}

    def sotw(self, kind: Kind, resources: Sequence[Resource], unlike: str, missing: Sequence[str] = ()) -> Response:
        """Return a response of the state-of-the-world protocol whose nonce is not `unlike`.

        `missing` are names that the client asks for and no resource has. Their absence alone tells a client nothing,
        which waits 15 s for a resource that it has never had (gRPC proposal A88).
        """

        def make(nonce: str) -> bytes:
            version = version_of(*(f"{each.name}={each.version};".encode() for each in resources))
            head = discovery_pb2.DiscoveryResponse(version_info=version, type_url=TYPE_URLS[kind], nonce=nonce)
            for name in missing:
                fault = head.resource_errors.add()
                fault.resource_name.name = name
                fault.error_detail.code = _NOT_FOUND
                fault.error_detail.message = _NO_SERVICE
            return b"".join((head.SerializeToString(), *(each.sotw for each in resources)))

        return self._shared((False, kind, tuple(resources), tuple(missing)), make, unlike)

    def delta(self, kind: Kind, resources: Sequence[Resource], removed: Sequence[str], unlike: str) -> Response:
        """Return a response of the delta protocol whose nonce is not `unlike`."""

        def make(nonce: str) -> bytes:
            head = discovery_pb2.DeltaDiscoveryResponse(
                type_url=TYPE_URLS[kind], nonce=nonce, removed_resources=removed
            )
            return b"".join((head.SerializeToString(), *(each.delta for each in resources)))

        return self._shared((True, kind, tuple(resources), tuple(removed)), make, unlike)

    def forget(self) -> None:
        """Drop what is kept to be shared: the resources have changed."""
        self._cached.clear()

    def _shared(
        self,
        key: tuple[bool, Kind, tuple[Resource, ...], tuple[str, ...]],
        make: Callable[[str], bytes],
        unlike: str,
    ) -> Response:
        found = self._cached.get(key)
        if found is None or found.nonce == unlike:
            nonce = format(next(self._nonces), "x")
            found = Response(key[1], nonce, make(nonce), key[2])
            if len(self._cached) >= _MOST_CACHED:
                self._cached.clear()
            self._cached[key] = found
        return found
