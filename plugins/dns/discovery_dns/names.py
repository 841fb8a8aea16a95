"""The domain names of services, of SRV records and of addresses, in wire form (RFC 1035, 3.1). Pure."""

import ipaddress
from collections.abc import Iterator, Sequence

ADDRESSES = "addr"
"""The label below which every address of a backend has a name, the target of SRV records: `10-0-0-5.addr.DOMAIN`."""
PROTOCOL = "_tcp"
"""The label below which every service has a name for SRV records (RFC 2782): `_web._tcp.DOMAIN`."""
NAME_SERVER = ("ns", ADDRESSES)
"""The labels of this server's own name. No service can have it."""
MOST_LABEL_BYTES = 63
"""Bytes of a label (RFC 1035)."""
MOST_NAME_BYTES = 255
"""Bytes of a name in wire form (RFC 1035)."""


class NoNameError(Exception):
    """A service cannot have a domain name. The message gives the reason in one line."""


def service_name(service: str, apex: bytes) -> bytes:
    """Return the name of a service, in lower case, below the domain `apex`. Raises NoNameError."""
    labels = service.split(".")
    if not all(labels):
        raise NoNameError("a domain name has no empty label: the dots have to be between other characters")
    if len(labels) > 1 and labels[-1].lower() in (ADDRESSES, PROTOCOL):
        raise NoNameError(f"names that end with {labels[-1]!r} are those of addresses and SRV records")
    return _name(labels, apex)


def srv_name(service: str, apex: bytes) -> bytes:
    """Return the name of the service's SRV records by RFC 2782, in lower case. Raises NoNameError."""
    return _name([*f"_{service}".split("."), PROTOCOL], apex)


def address_name(address: str, apex: bytes) -> bytes:
    """Return the name of an IP address."""
    return wire((address_label(address), ADDRESSES)) + apex


def address_label(address: str) -> str:
    """Return an IP address as a label: `10-0-0-5`, or the eight groups of an IPv6 address with all zeros."""
    if ":" not in address:
        return address.replace(".", "-")
    return ipaddress.IPv6Address(address).exploded.replace(":", "-")


def wire(labels: Sequence[str]) -> bytes:
    """Return the wire form of labels, each of at most 63 ASCII characters, without the root."""
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels)


def ancestors(name: bytes, apex: bytes) -> Iterator[bytes]:
    """Yield the names between `name`, in wire form, and the domain `apex`, both excluded."""
    at = name[0] + 1
    while at < len(name) - len(apex):
        yield name[at:]
        at += name[at] + 1


def is_below(name: bytes, apex: bytes) -> bool:
    """Return True if `name`, in lower case and wire form, is the domain `apex` or a name below."""
    at, end = 0, len(name) - len(apex)
    while at < end:
        at += name[at] + 1
    return at == end and name[at:] == apex


def _name(labels: Sequence[str], apex: bytes) -> bytes:
    for label in labels:
        if len(label) > MOST_LABEL_BYTES:
            raise NoNameError(f"{label[:20]!r}... has {len(label)} characters, and a label has {MOST_LABEL_BYTES}")
    name = wire([label.lower() for label in labels]) + apex
    if len(name) > MOST_NAME_BYTES:
        raise NoNameError(f"with the domain the name has {len(name)} bytes, and a domain name has {MOST_NAME_BYTES}")
    return name
