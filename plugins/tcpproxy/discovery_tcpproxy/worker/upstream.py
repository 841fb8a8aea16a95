"""A backend in a worker: addresses, settings and the history of connections."""

from collections.abc import Iterable
from enum import Enum


class UpstreamState(Enum):
    """State of a backend, derived from the outcome of its last connection attempts.

    The values are part of the report to the daemon.
    """

    USABLE = "usable"
    SET_ASIDE = "set aside"
    DUE = "due"  # its delay is over: the next connection that is assigned to the backend is the probe
    PROBED = "probed"


class Upstream:
    """Backend at a host and a port; instances are compared by identity.

    `host` is an IP address, or a host name with addresses. A connection is dialled to `address` first, and after a
    failure to each of `other_addresses` in turn.
    """

    __slots__ = (
        "address",
        "addresses",
        "connect_failures",
        "connect_seconds",
        "connected",
        "departures",
        "dialling",
        "draining",
        "failed_at",
        "failures",
        "gone",
        "host",
        "id",
        "open",
        "other_addresses",
        "port",
        "rank",
        "reason",
        "received",
        "sent",
        "state",
        "until",
        "weight",
    )

    def __init__(self, id_: str, host: str, port: int, weight: int = 1, draining: bool = False) -> None:
        """Create a usable backend whose only address is `host`, until `set_addresses` gives others."""
        self.id = id_
        self.host = host
        self.port = port
        self.weight = weight
        self.draining = draining
        self.rank = 0  # position in the daemon's list
        self.gone = False  # no longer registered
        self.departures = 0  # how many times the backend has left the registry
        self.addresses: tuple[str, ...] = ()
        self.address: tuple[str, int]
        self.other_addresses: tuple[tuple[str, int], ...]
        self.set_addresses((host,))
        self.open = 0  # connections, including those that are being dialled
        self.dialling = 0
        self.connected = 0  # connections ever established
        self.connect_failures = 0
        self.connect_seconds = 0.0
        self.received = 0  # bytes from the backend
        self.sent = 0  # bytes to the backend
        self.state = UpstreamState.USABLE
        self.failures = 0  # consecutive failed attempts
        self.failed_at = 0.0
        self.reason = ""  # of the last failed attempt
        self.until = 0.0

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Replace the IP addresses, in the order of dialling. The same addresses again change nothing."""
        if self.addresses != (addresses := tuple(addresses)):
            self.addresses = addresses
            self.address, *others = [(address, self.port) for address in addresses]
            self.other_addresses = tuple(others)

    def prefer(self, address: tuple[str, int]) -> None:
        """Dial this address of the backend before its other addresses from now on."""
        if address in self.other_addresses:
            others = (self.address, *(each for each in self.other_addresses if each != address))
            self.address, self.other_addresses = address, others

    @property
    def accepts_new(self) -> bool:
        """True if the backend accepts new connections: registered, not draining, with a positive weight."""
        return self.weight > 0 and not self.draining and not self.gone
