"""Networks as people write them in a configuration: who may connect, who may tell a client's address.

Public: plugins of third parties import it.
"""

import ipaddress
from typing import Annotated, Any

from pydantic import BeforeValidator

UNIX = "unix"
"""Among `Senders`: clients of a Unix socket, which have no address; the socket's file mode says who they may be."""


def network(value: object) -> str:
    """`10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32` in its one form. Raises ValueError, a line with the way out."""
    text = value if isinstance(value, str) else repr(value)
    try:
        parsed = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network: write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32") from None
    if str(parsed.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        raise ValueError(f"{text!r} names an address within a network: write {parsed}")
    return str(parsed)


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _sender(value: object) -> str:
    return UNIX if value == UNIX else network(value)


def _senders(value: Any) -> object:
    if value is True:
        raise ValueError(
            "true would believe a PROXY header from every client, who could claim any address: name the networks of"
            ' the proxies in front, such as ["10.0.0.0/8"]'
        )
    return () if value is False else _listed(value)


Network = Annotated[str, BeforeValidator(network, json_schema_input_type=str)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Senders = Annotated[
    tuple[Annotated[str, BeforeValidator(_sender, json_schema_input_type=str)], ...],
    BeforeValidator(_senders, json_schema_input_type=bool | str | list[str]),
]
"""The networks whose clients may send a PROXY protocol header, and `UNIX`. `false`: none."""
