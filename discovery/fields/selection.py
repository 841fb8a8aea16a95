"""Selections: backends by their labels, and requests by the host and the path."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from discovery.fields.parsed import OneOrMany, Parsed, format_value, one_or_many

_MAX_HOST_CHARACTERS = 253
"""Characters of a domain name (RFC 1035, without the final dot)."""
_HOST = re.compile(r"\*|(\*\.)?{name}|{name}\.\*".format(name="[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?"))
_PATH = re.compile(r"/[A-Za-z0-9_.~!$&'()*+,;=:@%/-]*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")


class _HostPattern(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        pattern = value.lower() if isinstance(value, str) else ""
        if len(pattern) > _MAX_HOST_CHARACTERS or not _HOST.fullmatch(pattern):
            raise ValueError(
                f"{format_value(value)} is not a host pattern: write example.com, *.example.com, example.* or *"
                " (without a port)"
            )
        return pattern

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": ["example.com", "*.example.com", "example.*", "*"]}


class _PathPrefix(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not _PATH.fullmatch(value):
            raise ValueError(f"{format_value(value)} is not a path that begins with '/'")
        return value.rstrip("/") or "/"

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": ["/api"]}


class _LabelName(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not _LABEL_NAME.fullmatch(value):
            raise ValueError(f"{format_value(value)} is not a label's name of 1-63 letters, digits, _ . and -")
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string"}


class _LabelValues(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> tuple[str, ...]:
        values = one_or_many(value)
        if not values:
            raise ValueError(
                "the list of values is empty, which no backend has: write the values that a backend may have"
            )
        return tuple(map(_label_value, values))

    def json_schema(self) -> dict[str, Any]:
        single = {"anyOf": [{"type": kind} for kind in ("string", "integer", "number", "boolean")]}
        return {"anyOf": [*single["anyOf"], {"type": "array", "items": single}]}


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    """Return True if `labels`, those of a backend, have for each label of `wanted` one of its values.

    A missing label has the empty value, as in templates.
    """
    return all(labels.get(label, "") in values for label, values in wanted.items())


def _label_value(value: object) -> str:
    """Return the value as the text that a record has: JSON of a number or a boolean. Raises ValueError."""
    if isinstance(value, int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise ValueError(f"{format_value(value)} is not the value of a label: write text, a number, true or false")
    return value


Hosts = OneOrMany[Annotated[str, _HostPattern()]]
"""Host patterns: `example.com`, `*.example.com`, `example.*` or `*`, in lower case; a list, or a single pattern."""
Prefixes = OneOrMany[Annotated[str, _PathPrefix()]]
"""Path prefixes, each without a final `/` unless the prefix is `/`; a list, or a single prefix."""
LabelName = Annotated[str, _LabelName()]
"""The name of a label: 1-63 letters, digits, `_`, `.` and `-`."""
LabelValues = Annotated[tuple[str, ...], _LabelValues()]
"""Values of a label, any of which a backend may have; a list, or a single value. Numbers and booleans become text."""
Labels = dict[LabelName, LabelValues]
"""The labels that a backend must have: see `has_labels`."""
