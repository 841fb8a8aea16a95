"""The options of the plugin."""

import re
from fnmatch import translate
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import BindAddress, Duration, OneOrMany, WholeNumber, format_value
from discovery.toolkit import binds_conflict

_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_DOMAIN_CHARACTERS = 200
"""Characters of a domain: a name has 253 (RFC 1035), which leaves some for the services."""
_PATTERN = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def _domain(value: object) -> str:
    """Return a domain in lower case, without the final dot. Raises ValueError."""
    text = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if not _DOMAIN.fullmatch(text) or len(text) > _DOMAIN_CHARACTERS:
        raise ValueError(
            f"{format_value(value)} is not a domain of at most {_DOMAIN_CHARACTERS} characters: write service.internal"
        )
    return text


def _pattern(value: object) -> str:
    """Return the pattern of service names. Raises ValueError."""
    if not isinstance(value, str) or not _PATTERN.fullmatch(value):
        raise ValueError(f"{format_value(value)} is not the name of a service, or a pattern such as web-*")
    return value


def _label(value: object) -> str:
    """Return the name of a label. Raises ValueError."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise ValueError(f"{format_value(value)} is not the name of a label: 1-63 letters, digits and _.-")
    return value


class BackupConfig(PluginConfig):
    """The backends that are backups: those whose label has one of the values `is`, or none of the values `not`."""

    label: Annotated[str, BeforeValidator(_label)]
    """The name of the label. A missing label is the empty value."""
    is_: OneOrMany[str] | None = Field(default=None, alias="is")
    not_: OneOrMany[str] | None = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _check_values(self) -> "BackupConfig":
        if (self.is_ is None) == (self.not_ is None):
            raise ValueError("give exactly one of 'is' and 'not', such as { label = \"zone\", not = \"eu-1\" }")
        return self


def _addresses(listen: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses. Raises ValueError if there is none, or if two addresses conflict."""
    if not listen:
        raise ValueError('there is no address: name one, such as "127.0.0.1:5300"')
    for number, bind in enumerate(listen):
        for other in listen[:number]:
            if binds_conflict(bind, other):
                raise ValueError(f"{bind} and {other} are one address" if bind != other else f"{bind} is named twice")
    return listen


class DnsConfig(PluginConfig):
    """A DNS server for the services of the registry."""

    listen: Annotated[OneOrMany[Annotated[str, BindAddress(sockets=False)]], AfterValidator(_addresses)] = (
        "127.0.0.1:5300",
    )
    """Addresses to listen on, over UDP and TCP."""
    domain: Annotated[str, BeforeValidator(_domain)] = "service.internal"
    """Domain of the services: the service `web` is `web.service.internal`."""
    ttl: Annotated[float, Duration(0, 86400)] = 5.0
    """Time for which clients and resolvers may keep an answer, rounded down to whole seconds."""
    negative_ttl: Annotated[float, Duration(0, 86400)] = 5.0
    """Time for which they may keep the answer that there is no such name or record, rounded down to whole seconds."""
    services: OneOrMany[Annotated[str, BeforeValidator(_pattern)]] = ("*",)
    """Services to answer for: names, and patterns with `*` and `?`."""
    backup: BackupConfig | None = None
    """Which backends are backups, which answers have only if there is no other backend; in SRV records they have the
    priority 10."""
    max_answers: Annotated[int, WholeNumber(1, 65535)] | None = None
    """The largest number of records in the answer section. Default: no limit but the size of the answer."""
    tcp_connections: Annotated[int, WholeNumber(1, 65535)] = 256
    """The largest number of TCP connections; a further connection closes the one that has been idle the longest."""
    tcp_idle_timeout: Annotated[float, Duration(0.1, 3600)] = 10.0
    """Time after which a TCP connection without a complete query, or whose client does not read, is closed."""

    def serves(self, service: str) -> bool:
        """Return True if the server answers for the service."""
        return _any_of(self.services).fullmatch(service) is not None


@lru_cache(16)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return the expression that a text matches if the text matches one of the `patterns`."""
    return re.compile("|".join(map(translate, patterns)))
