"""IP networks, and the senders of PROXY protocol headers."""

import ipaddress
from typing import Annotated, Any

from discovery.fields.parsed import OneOrMany, OneOrManyMetadata, Parsed, format_value, one_or_many

UNIX = "unix"
"""Among `Senders`: clients of a Unix socket, which have no address. The file mode of the socket limits them."""


class _Network(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return network(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]}


class _Sender(_Network):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return UNIX if value == UNIX else network(value)


class _Senders(OneOrManyMetadata):
    __slots__ = ()

    def prepare(self, value: object) -> object:
        if value is True:
            raise ValueError(
                "true would believe a PROXY header from every client, and a client could claim any address:"
                ' name the networks of the proxies in front, such as ["10.0.0.0/8"]'
            )
        return () if value is False else one_or_many(value)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        described = super().__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [{"const": False}, *described["anyOf"]]}


def network(value: object) -> str:
    """Return an IP network in its canonical form: `10.0.0.0/8`, `192.0.2.7/32`, `2001:db8::/32`.

    An address without a prefix length is the network of that address alone. Raises ValueError, one line with the value
    and the valid forms.
    """
    try:
        if not isinstance(value, str):
            raise ValueError("ipaddress accepts numbers")
        parsed = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f"{format_value(value)} is not a network: write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
        ) from None
    if str(parsed.network_address) != str(ipaddress.ip_address(value.partition("/")[0])):
        raise ValueError(f"{value!r} names an address within a network: write {parsed}")
    return str(parsed)


Network = Annotated[str, _Network()]
"""An IP network: see `network`."""
Networks = OneOrMany[Network]
"""IP networks: a list of networks, or a single network."""
Senders = Annotated[tuple[Annotated[str, _Sender()], ...], _Senders()]
"""The networks whose clients may send a PROXY protocol header, and `UNIX`. `false`: none."""
