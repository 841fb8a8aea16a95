"""Admission of clients to a listener: networks, limits, and the proxies whose PROXY protocol headers are believed."""

from collections.abc import Mapping
from typing import Any

from discovery_tcpproxy.worker.access import Access, Limits, Senders
from discovery_tcpproxy.worker.stream import Connection


class Admission:
    """Decision whether a client may use a listener, and the count of connections towards the limits.

    Read `open`, `restricted`, `limited` and `senders` before a call: most listeners restrict nothing, and an attribute
    costs less than a call.
    """

    __slots__ = ("_access", "_limits", "limited", "open", "restricted", "senders")

    def __init__(self) -> None:
        """Admit every client until `configure` is called."""
        self._access = Access()
        self._limits = Limits()
        self.open = True
        """True if every client is admitted by its own address, and none is counted."""
        self.senders = Senders()
        """Proxies in front, whose clients are admitted by the address in the header."""
        self.limited = False
        """True if there is a limit, so that connections have to be counted."""
        self.restricted = False
        """True if any client may be refused, so that `refusal` has to be called."""

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings of the listener; connections that exist are not refused any more."""
        self._access = Access(settings["allow"], settings["deny"])
        self._limits.change(settings["max_connections"], settings["max_connections_per_client"])
        self.limited = self._limits.limited
        self.restricted = self.limited or not self._access.open
        self.senders = Senders(settings["accept_proxy"])
        self.open = not (self.restricted or self.senders.any)

    def refusal(self, client: str) -> str:
        """Return why a client at this IP address is refused (`denied`, `limit`), or an empty string.

        A client that is not refused has been counted if there are limits, and has to be released in the end.
        """
        if not self._access.permits(client):
            return "denied"
        return "limit" if self.limited and not self._limits.take(client) else ""

    def count(self, connection: Connection) -> None:
        """Count a connection that was admitted while there was no limit."""
        if not connection.counted:
            connection.counted = True
            self._limits.add(connection.client_address[0])

    def release(self, connection: Connection) -> None:
        """Stop counting a connection that has been counted."""
        self._limits.release(connection.client_address[0])
