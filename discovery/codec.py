"""Registry key and value to backend and back. What comes from outside is validated here, once, by strict types.

Read, all in one prefix:

- docker-register's flat JSON: `{"host": "10.0.0.1", "port": 49153, "extra": "value"}` (extras become labels);
- a plain `host:port`, as registrator writes it;
- nerve's JSON: `{"host", "port", "name", "weight", "labels", "haproxy_server_options"}` (the last is ignored: it is
  HAProxy syntax).

Written: docker-register's JSON, labels beside `host` and `port` as its extras are, with our fields where they differ
from what is assumed. A label named like a field goes into `labels`.
"""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from discovery.errors import RecordError
from discovery.model import Backend, Rejected, State

MAX_VALUE = 64 * 1024
MAX_LABELS = 64
MAX_LABEL_VALUE = 1024
MAX_WEIGHT = 256

_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:@\[\]-]{0,254}")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")  # what every reader of JSON gives back digit for digit
_STATED_TTL = re.compile(rb'(?<!\\)"ttl": ?([0-9]{1,8}(?:\.[0-9]{1,6})?)[,}]')
_PLAIN = re.compile(r"(?:\[(?P<ip6>[^\]]*)\]|(?P<host>[^:]*)):(?P<port>[0-9]{1,5})")

_OURS = frozenset({"host", "port", "weight", "state", "labels", "owner", "ttl"})
_IGNORED = {
    "haproxy_server_options": "it is HAProxy syntax, which a registry record may not carry;"
    " set options for the service in the haproxy plugin's configuration",
}


@dataclass(frozen=True, slots=True)
class Record:
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
        """An empty value; `reason` is shown to people."""
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
    """Return the value of the record of `backend`, in one line of JSON.

    `owner` is who registers the backend, and `ttl` the TTL in seconds of a leased record. Raises RecordError for what
    `decode` would refuse.
    """
    backend = validate(backend)
    fields: dict[str, Any] = {"host": backend.host, "port": backend.port}
    if backend.weight != 1:
        fields["weight"] = backend.weight
    if backend.state is not State.ACTIVE:
        fields["state"] = backend.state.value
    named_like_fields = {}
    for name, text in sorted(backend.labels.items()):
        if name in _OURS or name in _IGNORED:
            named_like_fields[name] = text
        else:
            fields[name] = int(text) if _WHOLE.fullmatch(text) else text
    if named_like_fields:
        fields["labels"] = named_like_fields
    if owner is not None:
        fields["owner"] = _text("owner", owner)
    if ttl is not None:
        fields["ttl"] = _ttl(ttl)
    value = json.dumps(fields, separators=(", ", ": "), ensure_ascii=False).encode()
    if len(value) > MAX_VALUE:
        raise RecordError(f"the record would be {len(value)} bytes; the limit is {MAX_VALUE}")
    return value


def validate(backend: Backend) -> Backend:
    """Return `backend` with its host in canonical form. Raises RecordError, which names the field at fault."""
    service, id_ = split_key(key_of(backend))
    return Backend(
        service,
        id_,
        _host(backend.host),
        _integer("port", backend.port, 1, 65535),
        _integer("weight", backend.weight, 0, MAX_WEIGHT),
        backend.state,
        _labels(backend.labels),
    )


def stated_ttl(value: bytes) -> float | None:
    """The TTL in seconds that a record written by `encode` states, without decoding the rest; None if it has none."""
    found = _STATED_TTL.search(value, 0, MAX_VALUE)
    return float(found[1]) or None if found else None


def validate_owner(owner: str) -> str:
    """The owner as it may stand in a record. Raises RecordError."""
    if not owner:
        raise RecordError("the owner is empty")
    return _text("owner", owner)


def key_of(backend: Backend) -> str:
    """Return the key of `backend`, relative to the prefix: `SERVICE/ID`."""
    return f"{backend.service}/{backend.id}"


def validate_service(service: str) -> str:
    """Return the name of a service. Raises RecordError if a record cannot have it."""
    if not _SERVICE.fullmatch(service):
        raise RecordError(
            f"the service name {service[:200]!r} is not 1-128 letters, digits, '_', '.' and '-', the first no sign"
        )
    return service


def split_key(key: str) -> tuple[str, str]:
    """`<service>/<id>` taken apart. Raises RecordError if it is not such a key."""
    service, slash, id_ = key.partition("/")
    if not slash or "/" in id_:
        raise RecordError(f"the key {key[:200]!r} is not <service>/<id>")
    validate_service(service)
    if not _ID.fullmatch(id_):
        raise RecordError(f"the id {id_[:200]!r} is not 1-255 letters, digits and _.:@[]-")
    return service, id_


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `text`, `HOST:PORT` or `[IPV6]:PORT`. Raises RecordError if either is not valid."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        raise RecordError(f"{text[:200]!r} is not HOST:PORT (an IPv6 address goes in brackets)")
    ip6 = match["ip6"]
    if ip6 is not None and ":" not in ip6:
        raise RecordError(f"{ip6[:200]!r} in brackets is not an IPv6 address")
    return _host(match["host"] if ip6 is None else ip6), _integer("port", match["port"], 1, 65535)


def _decode(key: str, value: bytes) -> Record:
    service, id_ = split_key(key)
    if len(value) > MAX_VALUE:
        raise RecordError(f"the value is {len(value)} bytes; the limit is {MAX_VALUE}")
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        raise RecordError("the value is not UTF-8 text") from None
    if not text.startswith("{"):
        try:
            host, port = parse_address(text)
        except RecordError as error:
            raise RecordError(_unquoted(text, error)) from None
        if id_.endswith(":udp"):  # as registrator marks them
            raise RecordError("it is a UDP port, and backends are reached by TCP")
        return Record(Backend(service, id_, host, port))
    try:
        fields = _JSON.decode(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"the value is not valid JSON: {error}") from None
    except ValueError:  # from int()
        raise RecordError("the value is not valid JSON: a number has too many digits") from None
    return _decode_fields(key, service, id_, fields)


def _unquoted(text: str, error: RecordError) -> str:
    """Why the text is no address, without the text: it may be anything, a secret file included."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return "the value is not HOST:PORT, and no JSON object either"
    host, ip6 = match["host"], match["ip6"]
    if ip6 is not None and ":" not in ip6:
        return "the text in brackets is not an IPv6 address"
    try:
        _host(host if ip6 is None else ip6)
    except RecordError:
        return "the host in HOST:PORT is neither an IP address that one can connect to nor a host name"
    return str(error)  # of the port, which is digits


def _decode_fields(key: str, service: str, id_: str, fields: Mapping[str, Any]) -> Record:
    if any(fields.get(name) is _TWICE for name in _OURS):
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
        if name in _OURS:
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
        _host(fields["host"]),
        _integer("port", fields["port"], 1, 65535),
        1 if weight is None else _integer("weight", weight, 0, MAX_WEIGHT),
        _state(fields.get("state")),
        usable,
    )
    owner = fields.get("owner")
    return Record(
        backend, None if owner is None else _text("owner", owner), _ttl(fields.get("ttl")), (*ignored, *unusable)
    )


_TWICE = object()
"""The value of a name that an object has twice: which of the two is meant nobody knows."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        fields.update((name, _TWICE) for name, count in counts.items() if count > 1)
    return fields


# Not strict: a control character that is not escaped is found by the rules for texts, and costs its label alone.
_JSON = json.JSONDecoder(object_pairs_hook=_without_duplicates, strict=False)


def _host(host: object) -> str:
    if not isinstance(host, str) or not host:
        raise RecordError("the host is not a text" if host != "" else "the host is empty")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return _host_name(host)
    if address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None):
        raise RecordError(f"the host {host!r} is not an address that one can connect to")
    return str(address)


def _host_name(host: str) -> str:
    parts = host.split(".")
    # A last part of digits would be read as an odd IPv4 address (127.1, 2130706433) by the C library.
    if len(host) > 253 or not all(map(_HOST_LABEL.fullmatch, parts)) or re.fullmatch(r"0[xX].*|[0-9]+", parts[-1]):
        raise RecordError(f"the host {host[:200]!r} is neither an IP address nor a host name")
    return host.lower()


def _integer(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise RecordError(f"the {name} {_short(value)} is not a whole number from {least} to {most}")
    return value


def _state(value: Any) -> State:
    try:
        return State.ACTIVE if value is None else State(value)
    except ValueError:
        raise RecordError(f"the state {_short(value)} is neither 'active' nor 'draining'") from None


def _labels(labels: Mapping[str, object]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise RecordError(f"there are {len(labels)} labels; the limit is {MAX_LABELS}")
    return {name: _label(name, value) for name, value in labels.items()}


def _usable_labels(key: str, labels: Mapping[str, object]) -> tuple[dict[str, str], list[Rejected]]:
    """The valid labels, and why each of the others is ignored: a bad label says nothing about the address."""
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
    if not _LABEL.fullmatch(name):
        raise RecordError(f"the label name {name[:200]!r} is not 1-63 letters, digits and _.-")
    if value is None:
        raise RecordError(f"the label {name!r} is null")
    if value is _TWICE:
        raise RecordError(f"the label {name!r} is given twice")
    return _text(f"label {name!r}", json.dumps(value) if isinstance(value, int | float) else value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise RecordError(f"the {name} is not a text")
    if len(value.encode(errors="replace")) > MAX_LABEL_VALUE:
        raise RecordError(f"the {name} is longer than {MAX_LABEL_VALUE} bytes")
    if not value.isprintable():
        raise RecordError(f"the {name} has a control or unprintable character in it")
    return value


def _ttl(value: object) -> float | None:
    if value is None:
        return None
    # Compared before it is converted: a whole number in JSON may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86400 * 365:
        raise RecordError(f"the ttl {_short(value)} is not a number of seconds")
    return float(value)


def _printable(text: str) -> str:
    """A key or a field's name as people may be shown it: no control characters, and not without end."""
    return text[:300] if text.isprintable() else ascii(text[:300])[1:-1]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
