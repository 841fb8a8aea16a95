"""Addresses to listen on."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from discovery.fields.parsed import Parsed, format_value, one_or_many
from discovery.model import join_host_port

UNIX_PREFIX = "unix:"
"""The beginning of a `Bind` that is a Unix socket: `unix:/PATH`."""

_ZONE = re.compile(r"[A-Za-z0-9_.@:-]{0,15}")
"""The zone of an IPv6 address, the name of a network interface: without what other programs' files would misread."""


@dataclass(frozen=True, slots=True)
class BindAddress(Parsed):
    """An address to listen on, for `Annotated[str, BindAddress()]`.

    Valid forms: `127.0.0.1:8080`, `[::1]:8080`, `0.0.0.0:8080`, `*:8080` (the same as `0.0.0.0:8080`) and
    `localhost:8080`. A bare `:8080` is refused: some programs take it for every address, and others for this machine
    alone.

    `sockets`: `unix:/PATH` and `/PATH`, a Unix socket, are valid, too. `names`: a host name is valid, and `localhost`
    stays a name; without `names`, `localhost` is 127.0.0.1.
    """

    sockets: bool = True
    names: bool = False

    def parse(self, value: object) -> str:
        """Return `value` as `IP:PORT`, `[IPV6]:PORT`, `NAME:PORT` or `unix:/PATH`.

        Raises ValueError, one line that names the valid forms.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError(f"{format_value(value)} is a port alone: {_explicit(value)}")
        if not isinstance(value, str):
            raise ValueError(f"{format_value(value)} is not an address to listen on: {self._forms()}")
        if self.sockets and value.startswith((UNIX_PREFIX, "/")):
            return UNIX_PREFIX + _socket_path(value.removeprefix(UNIX_PREFIX))
        host, colon, port = value.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError(f"{format_value(value)} is not HOST:PORT with a port from 1 to 65535: {self._forms()}")
        if not host:
            raise ValueError(f"{format_value(value)} does not say on which address to listen: {_explicit(int(port))}")
        return join_host_port(self._host(host, value, port), int(port))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: text, with examples."""
        sockets = ["unix:/run/web.sock"] if self.sockets else []
        return {"type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", *sockets]}

    def _host(self, host: str, value: str, port: str) -> str:
        """Return the IP address (without brackets) or the name. Raises ValueError."""
        if host == "*":
            return "0.0.0.0"  # noqa: S104 - the user asks for every address
        if host == "localhost" and not self.names:
            return "127.0.0.1"
        in_brackets = host.startswith("[") and host.endswith("]")
        try:
            address = ipaddress.ip_address(host[1:-1] if in_brackets else host)
            if not _ZONE.fullmatch(getattr(address, "scope_id", None) or ""):
                raise ValueError("ipaddress accepts any text as the zone")
        except ValueError:
            if self.names and re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", host):
                return host
            raise ValueError(
                f"{format_value(value)} does not begin with an IP address:"
                f" write 127.0.0.1:{port}, [::1]:{port} or 0.0.0.0:{port}"
            ) from None
        if address.version == 6 and not in_brackets:
            raise ValueError(f"{format_value(value)}: write an IPv6 address in brackets: [{host}]:{port}")
        if address.version == 4 and in_brackets:
            raise ValueError(f"{format_value(value)}: write an IPv4 address without brackets: {address}:{port}")
        return str(address)

    def _forms(self) -> str:
        sockets = ", or unix:/run/web.sock" if self.sockets else ""
        return f"write 127.0.0.1:8080, [::1]:8080, 0.0.0.0:8080 for every IPv4 address{sockets}"


def bind_tables(value: object) -> object:
    """Return the tables of addresses to listen on. `value` is a table, an address, or a list of these.

    An address alone becomes a table with the key `address`. Raises ValueError.
    """
    binds = one_or_many(value)
    if not binds:
        raise ValueError("the list of addresses is empty: remove 'bind', or write an address such as 127.0.0.1:8080")
    for bind in binds:
        if isinstance(bind, bool) or not (isinstance(bind, str | int | dict) or hasattr(bind, "address")):
            raise ValueError("a bind is an address such as 127.0.0.1:8080, or a table with an address")
    return tuple({"address": bind} if isinstance(bind, str | int) else bind for bind in binds)


def _socket_path(path: str) -> str:
    """Return the path of a Unix socket. Raises ValueError if no socket can have the path."""
    # Imported on use: few binds are Unix sockets.
    from discovery.system.unixsocket import SOCKET_PATH_BYTES, is_too_long_for_a_socket

    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(
            f"{format_value(UNIX_PREFIX + path)} is not the absolute path of a socket: write unix:/run/web.sock"
        )
    if is_too_long_for_a_socket(Path(path)) or not path.isprintable():
        raise ValueError(
            f"{format_value(UNIX_PREFIX + path)} is not a valid path of a socket:"
            f" it may have {SOCKET_PATH_BYTES} bytes, and printable characters alone"
        )
    return path


def _explicit(port: int) -> str:
    return (
        f"write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every IPv4 address,"
        f" or [::]:{port} for every IPv6 address"
    )


Bind = Annotated[str, BindAddress()]
"""An address to listen on, or a Unix socket: see `BindAddress`."""
