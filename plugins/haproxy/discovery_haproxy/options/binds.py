"""Options of the addresses to listen on."""

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from discovery import PluginConfig
from discovery.fields import Senders, bind_tables
from discovery_haproxy.options.values import Address, Line, Paths
from discovery_haproxy.text.words import words

_RESERVED_BY_ACCEPT_PROXY = frozenset({"accept-proxy", "name"})  # the rules of `accept_proxy` use the bind's name


class BindConfig(PluginConfig):
    """An address to listen on, and how HAProxy listens."""

    address: Address
    certificate: Paths = ()
    """PEM files (chain and key), or directories of PEM files. Makes the bind TLS."""
    accept_proxy: Senders = ()
    """Networks of load balancers that send a PROXY protocol header; `unix` stands for all clients of a Unix socket.
    A header from another client is ordinary data."""
    options: Line | None = None
    """Further words for the `bind` line."""

    @property
    def port(self) -> int | None:
        """Port of the address; None for a Unix socket."""
        return None if self.address.startswith("/") else int(self.address.rpartition(":")[2])

    @property
    def is_tls(self) -> bool:
        """Report whether clients speak TLS."""
        return bool(self.certificate) or "ssl" in words(self.options or "")

    @model_validator(mode="after")
    def _check_reserved_words(self) -> "BindConfig":
        if self.accept_proxy and self.options:
            for word in sorted(_RESERVED_BY_ACCEPT_PROXY & set(words(self.options))):
                raise ValueError(f"{word!r} in 'options' conflicts with 'accept_proxy': remove either")
        return self


def _binds(value: object) -> object:
    if value == ():
        return ()  # of a fragment, whose services need no address
    return bind_tables(value)


Binds = Annotated[
    tuple[BindConfig, ...],
    BeforeValidator(_binds, json_schema_input_type=str | BindConfig | list[str | BindConfig]),
]
