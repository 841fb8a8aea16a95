"""Sections of the user's own, such as peers and userlists, which lines refer to by name; and caches of services."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import Duration, format_value
from discovery_haproxy.options.values import Lines
from discovery_haproxy.text.words import words

_KINDS = (
    "backend", "cache", "crt-store", "fcgi-app", "http-errors", "log-forward", "log-profile", "mailers", "peers",
    "resolvers", "ring", "userlist",
)  # fmt: skip
_ELSEWHERE = {
    "global": "'global_lines'",
    "defaults": "'defaults_lines'",
    "frontend": "a service with 'frontend_lines', or a file of your own with 'include'",
    "listen": "a service with 'frontend_lines' and 'backend_lines', or a file of your own with 'include'",
}
"""Sections that the plugin writes, and the option in which their lines belong."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_RESERVED = re.compile(r"discovery(:.*)?|frontend:.*")
"""Names of the plugin's own sections."""
_SIZE = re.compile(r"([0-9]{1,12}) ?([kmg])i?b?", re.IGNORECASE)
_BYTES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MEGABYTE = 1 << 20  # in bytes
_LARGEST_CACHE = 4095 * _MEGABYTE
"""Bytes of HAProxy's largest cache."""
_LONGEST_SECONDS = 365 * 86400
"""Seconds for which an answer may be kept, as HTTP recommends (RFC 9111, 5.2.1)."""


def _header(value: object) -> str:
    kind, *names = (value.split() if isinstance(value, str) else ()) or ("",)
    if kind in _ELSEWHERE:
        raise ValueError(f"{kind!r} is a section of the plugin: use {_ELSEWHERE[kind]}")
    if kind not in _KINDS:
        raise ValueError(f"{format_value(value)} is not a section's kind and name: kinds are {', '.join(_KINDS)}")
    if len(names) != 1 or not _NAME.fullmatch(names[0]):
        raise ValueError(f"{format_value(value)} is not {kind!r} and a name of letters, digits and _.:-")
    if _RESERVED.fullmatch(names[0]):
        raise ValueError(f"{format_value(value)}: this name is the plugin's own, choose another")
    return f"{kind} {names[0]}"


def _check_lines(sections: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    for header, lines in sections.items():
        if header.startswith("userlist ") and any("insecure-password" in words(line) for line in lines):
            raise ValueError(
                f"{header!r} has a password, which would stand in haproxy.cfg: write its hash ('password', as"
                " `mkpasswd -m sha-256` prints), or use 'basic_auth' of a service, with a file of users"
            )
    return sections


def _size(value: object) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{format_value(value)} is not a size: write a size such as 500kB, 64MB or 1GB")
    return int(match[1]) * _BYTES[match[2].lower()]


def _cache(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    return {"size": value} if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str)]
"""A size in bytes, written with a unit."""


class CacheConfig(PluginConfig):
    """A cache of a service's answers in HAProxy's memory."""

    size: Annotated[Size, Field(ge=_MEGABYTE, le=_LARGEST_CACHE)] = 64 * _MEGABYTE
    """Memory of the cache, in whole megabytes."""
    max_object_size: Size | None = None
    """Largest answer that is kept. Default: the 256th part of the cache."""
    max_age: Annotated[float, Duration(1, _LONGEST_SECONDS)] = 60.0
    """Longest time for which an answer is kept, whatever the backend allows."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "CacheConfig":
        if self.size % _MEGABYTE:
            raise ValueError("the 'size' of a cache is a whole number of megabytes, such as 64MB")
        if self.max_object_size is not None and not 0 < self.max_object_size <= self.size // 2:
            raise ValueError("'max_object_size' is at most half of the cache's 'size'")
        return self

    @property
    def lines(self) -> tuple[str, ...]:
        """Lines of the `cache` section."""
        most = (f"max-object-size {self.max_object_size}",) if self.max_object_size else ()
        return (
            f"total-max-size {self.size // _MEGABYTE}",
            *most,
            f"max-age {max(1, int(self.max_age))}",
            "process-vary on",
        )


Sections = Annotated[dict[Annotated[str, BeforeValidator(_header)], Lines], AfterValidator(_check_lines)]
"""Lines of sections by the kind and the name of the section, such as `cache static`."""
Cache = Annotated[CacheConfig | None, BeforeValidator(_cache, json_schema_input_type=bool | str | CacheConfig | None)]
