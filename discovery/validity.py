"""The validity of a backend: the rules for every part of a record, whichever form the record has.

`discovery.codec` applies the rules to each record that it reads or writes; `validate` applies all rules to a backend
from any other source. Every function is pure and raises RecordError, whose message names the invalid part.
"""

import ipaddress
import json
import re

from discovery.addresses.kinds import is_destination
from discovery.errors import RecordError
from discovery.model import Backend, State

MAX_LABELS = 64
"""The number of labels of a backend: every consumer keeps all labels of all backends in memory."""
MAX_LABEL_VALUE = 1024
"""Bytes, the longest value of a label or owner: every consumer keeps all labels of all backends in memory."""
MAX_WEIGHT = 256
"""The largest weight of a backend, which is also HAProxy's largest weight."""
MAX_PORT = 65535
"""The largest TCP port: a port has 16 bits."""
MAX_TTL = 86400.0 * 365
"""Seconds, one year: a longer TTL is most likely a mistake."""

_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:@\[\]-]{0,254}")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IP4 = rf"(?!0\.0\.0\.0|22[4-9]|23[0-9]|255\.255\.255\.255)(?:{_OCTET}\.){{3}}{_OCTET}"
"""An IPv4 address that one can connect to: nearly every host, and recognised ten times faster than by `ipaddress`."""
_IP4 = re.compile(IP4)
_CANONICAL = re.compile(f"{_SERVICE.pattern}/{_ID.pattern}/{IP4}")
"""The three texts of nearly every backend: no part can have a slash, and a single search costs less than three."""
_DIGITS = re.compile(r"[0-9]{1,9}")
_ADDRESS = re.compile(r"(?:\[(?P<ip6>[^\]]*)\]|(?P<host>[^:]*)):(?P<port>[0-9]{1,5})")


def validate(backend: Backend) -> Backend:
    """Return `backend`, with its host in canonical form. Raises RecordError, which names the invalid field."""
    if _is_canonical(backend):
        return backend
    # A plugin without type checks may give a number.
    service, id_ = validate_service(str(backend.service)), validate_id(str(backend.id))
    if len(backend.labels) > MAX_LABELS:
        raise RecordError(f"there are {len(backend.labels)} labels; the limit is {MAX_LABELS}")
    return Backend(
        service,
        id_,
        validate_host(backend.host),
        validate_port(backend.port),
        validate_weight(backend.weight),
        backend.state,
        {name: validate_label(name, value) for name, value in backend.labels.items()},
        backend.created,
    )


def _is_canonical(backend: Backend) -> bool:
    """Report whether `validate` would return an equal backend, for the most usual backends, at a third of the cost."""
    service, id_, host, port, weight = backend.service, backend.id, backend.host, backend.port, backend.weight
    return (
        not backend.labels
        and type(service) is type(id_) is type(host) is str
        and type(port) is type(weight) is int
        and 0 < port <= MAX_PORT
        and 0 <= weight <= MAX_WEIGHT
        and _CANONICAL.fullmatch(f"{service}/{id_}/{host}") is not None
    )


def validate_service(service: str) -> str:
    """Return the name of a service. Raises RecordError if a record cannot have it."""
    if not _SERVICE.fullmatch(service):
        raise RecordError(
            f"the service name {service[:200]!r} is not valid: a name has 1-128 letters, digits, '_', '.' and '-',"
            " and must start with a letter, a digit or '_'"
        )
    return service


def validate_id(id_: str) -> str:
    """Return the id of a backend. Raises RecordError if a record cannot have it."""
    if not _ID.fullmatch(id_):
        raise RecordError(
            f"the id {id_[:200]!r} is not valid: an id has 1-255 letters, digits and _.:@[]-,"
            " and must start with a letter, a digit, '_', ':' or '['"
        )
    return id_


def split_key(key: str) -> tuple[str, str]:
    """Split the key `<service>/<id>` of a record into the service and the id. Raises RecordError for any other key."""
    service, slash, id_ = key.partition("/")
    if not slash or "/" in id_:
        raise RecordError(f"the key {key[:200]!r} is not <service>/<id>")
    return validate_service(service), validate_id(id_)


def parse_address(text: str, *, quoted: bool = True) -> tuple[str, int]:
    """Split `HOST:PORT` or `[IPV6]:PORT` into a valid host and port. Raises RecordError.

    With `quoted` the message of the error quotes `text`. Without `quoted` the message has no part of `text`, which may
    be any file's contents, a secret's included.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        why = "is not HOST:PORT (an IPv6 address goes in brackets)"
        raise RecordError(f"{text[:200]!r} {why}" if quoted else "the value is not HOST:PORT and not a JSON object")
    ip6 = match["ip6"]
    if ip6 is not None and ":" not in ip6:
        what = f"{ip6[:200]!r} in brackets" if quoted else "the text in brackets"
        raise RecordError(f"{what} is not an IPv6 address")
    try:
        host = validate_host(match["host"] if ip6 is None else ip6)
    except RecordError:
        if quoted:
            raise
        why = "is neither an IP address that one can connect to nor a host name"
        raise RecordError(f"the host in HOST:PORT {why}") from None
    return host, validate_port(match["port"])


def validate_owner(owner: str) -> str:
    """Return the name of an owner. Raises RecordError if a record cannot have it."""
    if not owner:
        raise RecordError("the owner is empty")
    return validate_text("owner", owner)


def validate_host(host: object) -> str:
    """Return an IP address or a host name in canonical form. Raises RecordError for any other value."""
    if not isinstance(host, str) or not host:
        raise RecordError("the host is not text" if host != "" else "the host is empty")
    if _IP4.fullmatch(host):
        return host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return _host_name(host)
    if not is_destination(bare):
        raise RecordError(f"the host {host!r} is not an address that one can connect to")
    return str(address)


def validate_port(value: object) -> int:
    """Return the TCP port `value`, which is a number or text with its digits. Raises RecordError."""
    return _integer("port", value, 1, MAX_PORT)


def validate_weight(value: object) -> int:
    """Return the weight `value`, which is a number or text with its digits. Raises RecordError."""
    return _integer("weight", value, 0, MAX_WEIGHT)


def validate_state(value: object) -> State:
    """Return the state that `value` names; None means active. Raises RecordError."""
    try:
        return State.ACTIVE if value is None else State(str(value))
    except ValueError:
        raise RecordError(f"the state {_short(value)} is neither 'active' nor 'draining'") from None


def validate_label_name(name: str) -> str:
    """Return the name of a label. Raises RecordError."""
    if not _LABEL.fullmatch(name):
        raise RecordError(f"the label name {name[:200]!r} is not 1-63 letters, digits and _.-")
    return name


def validate_label(name: str, value: object) -> str:
    """Return the value of a label as text. A number or a boolean becomes its JSON text. Raises RecordError."""
    validate_label_name(name)
    if value is None:
        raise RecordError(f"the label {name!r} is null")
    return validate_text(f"label {name!r}", json.dumps(value) if isinstance(value, int | float) else value)


def validate_text(name: str, value: object) -> str:
    """Return printable text of at most MAX_LABEL_VALUE bytes. Raises RecordError, which calls the value `name`."""
    if not isinstance(value, str):
        raise RecordError(f"the {name} is not text")
    if len(value.encode(errors="replace")) > MAX_LABEL_VALUE:
        raise RecordError(f"the {name} is longer than {MAX_LABEL_VALUE} bytes")
    if not value.isprintable():
        raise RecordError(f"the {name} has a control or unprintable character")
    return value


def validate_ttl(value: object) -> float | None:
    """Return a TTL in seconds; None if there is none. Raises RecordError."""
    if value is None:
        return None
    # Compared before it is converted: a whole number in JSON may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TTL:
        raise RecordError(f"the ttl {_short(value)} is not a number of seconds")
    return float(value)


def _host_name(host: str) -> str:
    parts = host.split(".")
    # If the last part is digits or hexadecimal, the C library reads the name as an IPv4 address (127.1, 2130706433).
    if len(host) > 253 or not all(map(_HOST_LABEL.fullmatch, parts)) or re.fullmatch(r"0[xX].*|[0-9]+", parts[-1]):
        raise RecordError(f"the host {host[:200]!r} is neither an IP address nor a host name")
    return host.lower()


def _integer(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise RecordError(f"the {name} {_short(value)} is not a whole number from {least} to {most}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
