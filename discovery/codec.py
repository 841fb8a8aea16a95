"""The wire form of records: converts a registry key and value to a backend, and a backend to both.

`discovery.validity` has the rules that both must satisfy. Forms that `decode` reads, also mixed in one registry:

- docker-register's flat JSON: `{"host": "10.0.0.1", "port": 49153, "extra": "value"}` (extras become labels);
- a plain `host:port`, as registrator writes it;
- nerve's JSON: `{"host", "port", "name", "weight", "labels", "haproxy_server_options"}` (the last is ignored: it is
  HAProxy syntax).

The form that `encode` writes is docker-register's JSON. Labels stand beside `host` and `port`, as the extras of
docker-register do; a label that is named like a field goes into `labels`. `weight` and `state` are written only if they
differ from their defaults.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from discovery.errors import RecordError
from discovery.model import Backend, Rejected, State
from discovery.validity import (
    IP4,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_PORT,
    MAX_WEIGHT,
    parse_address,
    split_key,
    validate,
    validate_host,
    validate_label,
    validate_label_name,
    validate_owner,
    validate_port,
    validate_state,
    validate_text,
    validate_ttl,
    validate_weight,
)

__all__ = [  # noqa: RUF022 - names defined here first; the others moved, and plugins may still import them from here
    "MAX_VALUE",
    "Record",
    "Unreadable",
    "decode",
    "encode",
    "stated_ttl",
    "MAX_LABELS",
    "MAX_LABEL_VALUE",
    "MAX_WEIGHT",
    "key_of",
    "parse_address",
    "split_key",
    "validate",
    "validate_owner",
]

MAX_VALUE = 64 * 1024
"""Bytes, the largest value of a record: every allowed label fits, and thousands of records fit into memory."""

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")  # at most 15 digits: JSON readers that use floats keep every digit
_PLAIN = re.compile(
    rf'\{{"host": "({IP4})", "port": ([1-9][0-9]{{0,4}})'
    rf'(?:, "owner": "([ !#-\[\]-~]{{1,{MAX_LABEL_VALUE}}})")?(?:, "ttl": ([1-9][0-9]{{0,6}}\.[0-9]))?\}}'
)
"""The value that `encode` writes for nearly every backend: an IPv4 address, no labels, and the usual weight and state.
A search takes a third of the time of the JSON parser and the checks of each field, which a listing repeats for each
record."""
_STATED_TTL = re.compile(rb'(?<!\\)"ttl": ?([0-9]{1,8}(?:\.[0-9]{1,6})?)[,}]')

_FIELDS = frozenset({"host", "port", "weight", "state", "labels", "owner", "ttl"})
"""The fields of a record's JSON object that are not labels."""
_IGNORED = {
    "haproxy_server_options": "it is HAProxy syntax, which a registry record may not carry;"
    " set options for the service in the haproxy plugin's configuration",
}


class Record(NamedTuple):
    """A decoded record: `backend`, the `owner` who registered the backend, and the `ttl` in seconds.

    `owner` and `ttl` are None if the record has none. `ignored` has the fields that were ignored.
    """

    backend: Backend
    owner: str | None = None
    ttl: float | None = None
    ignored: tuple[Rejected, ...] = ()


class Unreadable(bytes):
    """The value of a record that a registry lists but cannot read: empty, with the reason."""

    def __new__(cls, reason: str) -> Self:
        """Return an empty value; `reason` is text for a person."""
        return super().__new__(cls)

    def __init__(self, reason: str) -> None:
        """See `__new__`."""
        self.reason = reason


def decode(key: str, value: bytes) -> Record | Rejected:
    """Return the record with the value `value` at `key` (`SERVICE/ID`, relative to the prefix).

    A bad record is returned as Rejected, never raised.
    """
    if isinstance(value, Unreadable):
        return Rejected(_printable(key), value.reason)
    try:
        return _decode(key, value)
    except RecordError as error:
        return Rejected(_printable(key), str(error))


def encode(backend: Backend, owner: str | None = None, ttl: float | None = None) -> bytes:
    """Return the value of the record of `backend`: JSON on a single line.

    `owner` is the name of the owner that registers the backend, and `ttl` the TTL in seconds of a leased record. Raises
    RecordError for a record that `decode` would refuse.
    """
    backend = validate(backend)
    fields: dict[str, Any] = {"host": backend.host, "port": backend.port}
    if backend.weight != 1:
        fields["weight"] = backend.weight
    if backend.state is not State.ACTIVE:
        fields["state"] = backend.state.value
    named_like_fields = {}
    for name, text in sorted(backend.labels.items()):
        if name in _FIELDS or name in _IGNORED:
            named_like_fields[name] = text
        else:
            fields[name] = int(text) if _WHOLE.fullmatch(text) else text
    if named_like_fields:
        fields["labels"] = named_like_fields
    if owner is not None:
        fields["owner"] = validate_text("owner", owner)
    if ttl is not None:
        fields["ttl"] = validate_ttl(ttl)
    value = json.dumps(fields, separators=(", ", ": "), ensure_ascii=False).encode()
    if len(value) > MAX_VALUE:
        raise RecordError(f"the record would be {len(value)} bytes; the limit is {MAX_VALUE}")
    return value


def stated_ttl(value: bytes) -> float | None:
    """Return the TTL in seconds of a record that `encode` wrote, None without a TTL. Decodes nothing else."""
    found = _STATED_TTL.search(value, 0, MAX_VALUE)
    return float(found[1]) or None if found else None


def key_of(backend: Backend) -> str:
    """Return `backend.key`. For older plugins: the core uses the property."""
    return backend.key


def _decode(key: str, value: bytes) -> Record:
    service, id_ = split_key(key)
    if len(value) > MAX_VALUE:
        raise RecordError(f"the value is {len(value)} bytes; the limit is {MAX_VALUE}")
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        raise RecordError("the value is not UTF-8 text") from None
    if plain := _PLAIN.fullmatch(text):
        host, port, owner, ttl = plain.groups()
        if int(port) <= MAX_PORT:
            return Record(Backend(service, id_, host, int(port)), owner, None if ttl is None else float(ttl))
    if not text.startswith("{"):
        host, port = parse_address(text, quoted=False)
        if id_.endswith(":udp"):  # as registrator marks them
            raise RecordError("the record is for a UDP port, and backends are reached by TCP")
        return Record(Backend(service, id_, host, port))
    try:
        fields = _JSON.decode(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"the value is not valid JSON: {error}") from None
    except ValueError:  # from int()
        raise RecordError("the value is not valid JSON: a number has too many digits") from None
    return _decode_fields(key, service, id_, fields)


def _decode_fields(key: str, service: str, id_: str, fields: Mapping[str, Any]) -> Record:
    if _DUPLICATE in fields.values() and any(fields.get(name) is _DUPLICATE for name in _FIELDS):
        raise RecordError("the value is not valid JSON: a field is given twice")
    for required in ("host", "port"):
        if required not in fields:
            raise RecordError(f"the field {required!r} is missing")
    ignored = []
    labels = fields.get("labels") or {}
    if not isinstance(labels, dict):
        ignored.append(Rejected(key, "the field 'labels' is not an object of texts", "labels"))
        labels = {}
    extras: dict[str, Any] = {}
    for name, extra in fields.items():
        if name in _FIELDS:
            continue
        if name in _IGNORED:
            ignored.append(Rejected(key, _IGNORED[name], name))
        elif isinstance(extra, dict | list):
            ignored.append(Rejected(key, "only text and numbers can be a label", _printable(name)))
        elif extra is not None:
            extras[name] = extra
    usable, unusable = _usable_labels(key, {**extras, **labels})
    weight = fields.get("weight")
    backend = Backend(
        service,
        id_,
        validate_host(fields["host"]),
        validate_port(fields["port"]),
        1 if weight is None else validate_weight(weight),
        validate_state(fields.get("state")),
        usable,
    )
    owner = fields.get("owner")
    return Record(
        backend,
        None if owner is None else validate_text("owner", owner),
        validate_ttl(fields.get("ttl")),
        (*ignored, *unusable),
    )


_DUPLICATE = object()
"""The value of a name that stands more than once in a JSON object: no value is certain to be the intended value."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        fields.update((name, _DUPLICATE) for name, count in counts.items() if count > 1)
    return fields


# strict=False accepts control characters inside strings. `validate_text` finds them, and refuses only that label; a
# strict decoder would refuse the whole record.
_JSON = json.JSONDecoder(object_pairs_hook=_without_duplicates, strict=False)


def _usable_labels(key: str, labels: Mapping[str, object]) -> tuple[dict[str, str], list[Rejected]]:
    """Return the valid labels, and a Rejected for each other label: an invalid label does not make a record invalid."""
    usable: dict[str, str] = {}
    ignored = []
    surplus = 0
    for name, value in labels.items():
        try:
            text = _label(name, value)
        except RecordError as error:
            ignored.append(Rejected(key, str(error), _printable(name)))
            continue
        if len(usable) < MAX_LABELS:
            usable[name] = text
        else:
            surplus += 1
    if surplus:
        reason = f"there are {MAX_LABELS + surplus} valid labels; only the first {MAX_LABELS} are used"
        ignored.append(Rejected(key, reason, "labels"))
    return usable, ignored


def _label(name: str, value: object) -> str:
    if value is _DUPLICATE:
        raise RecordError(f"the label {validate_label_name(name)!r} is given twice")
    return validate_label(name, value)


def _printable(text: str) -> str:
    """Return a key or a field's name for a message: printable, and shortened to 300 characters of `text`."""
    return text[:300] if text.isprintable() else ascii(text[:300])[1:-1]
