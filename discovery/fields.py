"""Types of options that the core and plugins share: durations, addresses to listen on, weights, and more.

The file has more than 400 lines: the file is the whole vocabulary of options, which an author of a plugin reads on one
page, and every type shares the form of the error messages.

Public API, for the fields of a `PluginConfig`:

    class Config(PluginConfig):
        listen: OneOrMany[Bind] = ("127.0.0.1:8080",)
        interval: Annotated[float, Duration(0.1, 3600)] = 5.0
        weight: Weight = 1

Every option of one type takes the same forms and refuses the others with the same message. The classes `Duration`,
`WholeNumber` and `BindAddress` hold the bounds of one option; their method `parse` validates a value without a model.
All objects are immutable and all functions are pure, so any thread may use both.

This module does not import pydantic: commands parse durations without a model, and pydantic takes longer to import than
most commands take to run.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from discovery.errors import RecordError
from discovery.model import join_host_port
from discovery.validity import MAX_WEIGHT, validate_service

__all__ = [
    "CHECK_TIME",
    "LONGEST",
    "TTL",
    "UNIX",
    "UNIX_PREFIX",
    "WEIGHT",
    "Bind",
    "BindAddress",
    "Duration",
    "Fall",
    "Network",
    "Networks",
    "OneOrMany",
    "Port",
    "Rise",
    "Senders",
    "ServiceName",
    "Weight",
    "WholeNumber",
    "duration_text",
    "format_value",
    "is_service_name",
    "network",
    "one_or_many",
    "service_name",
]

LONGEST = 365 * 86400.0
"""Seconds, one year: the limit of a duration that has no smaller limit. A longer duration is most likely a mistake."""
UNIX = "unix"
"""Among `Senders`: clients of a Unix socket, which have no address. The file mode of the socket limits them."""
UNIX_PREFIX = "unix:"
"""The beginning of a `Bind` that is a Unix socket: `unix:/PATH`."""

_MOST_IN_A_ROW = 1000
"""Outcomes of checks in a row: with a higher limit a change of state can come so late that a check has no effect."""
_LONGEST_DURATION_TEXT = 100
"""Characters. Durations also come from container labels, which may have any length."""
_LONGEST_FORMATTED = 60
"""Characters of a refused value in a message, so that the message stays short on a terminal."""
_NUMBER = r"(?:[0-9]{1,12}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})"
_UNIT = "(ns|us|µs|μs|ms|s|m|h|d)"
_DURATION = f"({_NUMBER}){_UNIT}"
_PATTERN = rf"^[0-9]*\.?[0-9]+({_UNIT}([0-9]*\.?[0-9]+{_UNIT})*)?$"
"""The pattern of a duration in a JSON schema, which cannot express the bounds.

`Duration` also accepts a number that ends with a point, which the pattern refuses.
"""
_UNITS: Mapping[str, float] = {
    **dict.fromkeys(("us", "µs", "μs"), 1e-6),
    "ns": 1e-9,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_ZONE = re.compile(r"[A-Za-z0-9_.@:-]{0,15}")
"""The zone of an IPv6 address, the name of a network interface: without what other programs' files would misread."""
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

T = TypeVar("T")


class _Parsed:
    """Metadata of an `Annotated` type: pydantic validates with `parse`, and describes values with `json_schema`."""

    __slots__ = ()

    def parse(self, value: object) -> Any:
        """Return the value in its canonical form. Raises ValueError, one line that names the valid forms."""
        raise NotImplementedError

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values that `parse` accepts."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the schema by which pydantic validates."""
        from pydantic_core import core_schema  # imported on use: see the docstring of this module

        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the schema for `discovery config check --json-schema`."""
        return self.json_schema()


@dataclass(frozen=True, slots=True)
class Duration(_Parsed):
    """A duration in seconds within bounds, for `Annotated[float, Duration(0.1, 3600)]`.

    Valid forms: a number of seconds (`10`, `0.5`, `"10"`), and text with units: `500ms`, `10s`, `5m`, `2h`, `1d`,
    `1.5s`, `1m30s` (the units `us` and `ns`, too). `true` and `false` are not valid.

    `least` and `most` are the bounds in seconds, both included. With `least` 0 a duration is more than 0. `zero`, if
    given, says what a duration of 0 means, as in "never"; only then 0 is valid.
    """

    least: float = 0.0
    most: float = LONGEST
    zero: str = ""

    def parse(self, value: object) -> float:
        """Return seconds. Raises ValueError, one line with the value, the bounds and the valid forms."""
        seconds = _seconds(value)
        if seconds is None or not (self.least <= seconds <= self.most if seconds else self.zero):
            raise ValueError(
                f"{format_value(value)} is not a duration {self.bounds}:"
                " write a number of seconds, or a time such as 500ms, 10s, 5m or 2h"
            )
        return seconds

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: a number within the bounds, or text."""
        number = {"type": "number", "minimum" if self.zero or self.least else "exclusiveMinimum": self.least}
        if self.zero:
            number["minimum"] = 0.0
        text = {"type": "string", "pattern": _PATTERN, "examples": ["500ms", "10s", "5m", "2h"]}
        return {"anyOf": [number | {"maximum": self.most}, text | {"description": f"A duration {self.bounds}"}]}

    @property
    def bounds(self) -> str:
        """The bounds for a person: `from 1s to 1h`, `from 0 (never) to 1m`."""
        most = duration_text(self.most)
        if not self.zero:
            return f"from {duration_text(self.least)} to {most}" if self.least else f"of more than 0 and at most {most}"
        if not self.least:
            return f"from 0 ({self.zero}) to {most}"
        return f"from {duration_text(self.least)} to {most}, or 0 ({self.zero})"


@dataclass(frozen=True, slots=True)
class WholeNumber(_Parsed):
    """A whole number from `least` to `most`, both included, for `Annotated[int, WholeNumber(1, 10)]`.

    Text that is such a number is valid (`"5"`); `true`, `false` and a fraction are not.
    """

    least: int
    most: int

    @property
    def bounds(self) -> str:
        """The bounds for a person: `from 1 to 10`."""
        return f"from {self.least} to {self.most}"

    def parse(self, value: object) -> int:
        """Return the number. Raises ValueError, one line with the value and the bounds."""
        number = None
        match value:
            case bool():
                pass
            case int():
                number = value
            case float() if value.is_integer():
                number = int(value)
            case str() if re.fullmatch(r"[0-9]{1,15}", value):
                number = int(value)
        if number is None or not self.least <= number <= self.most:
            raise ValueError(f"{format_value(value)} is not a whole number {self.bounds}")
        return number

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: an integer within the bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class BindAddress(_Parsed):
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


class _OneOrMany:
    """Metadata of an `Annotated` tuple: a value that is no list counts as a list with that value alone."""

    __slots__ = ()

    def prepare(self, value: object) -> object:
        return one_or_many(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # imported on use: see the docstring of this module

        return core_schema.no_info_before_validator_function(self.prepare, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        described = handler(schema)
        return {"anyOf": [described.get("items", {}), described]}


class _Network(_Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return network(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]}


class _Sender(_Network):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return UNIX if value == UNIX else network(value)


class _Senders(_OneOrMany):
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


class _ServiceName(_Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return service_name(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"}


def duration_text(seconds: float) -> str:
    """Return a duration with its largest unit that needs no fraction: `1h`, `90s`, `1500ms`; `0` for 0.

    `seconds` is at least 0. A duration that is no whole number of milliseconds has a fraction, as in `0.5ms`.
    """
    milliseconds = round(seconds * 1000)
    if not seconds:
        return "0"
    if not milliseconds or abs(milliseconds - seconds * 1000) > 1e-6:  # the error of the multiplication is far smaller
        return f"{seconds * 1000:g}ms"
    return next(f"{milliseconds // size}{unit}" for unit, size in _MILLISECONDS.items() if milliseconds % size == 0)


def format_value(value: object) -> str:
    """Return a value of a configuration file as an error message shows the value: in one line, at most 60 characters.

    Text is quoted; a date or a time is named as such (`the date 2020-01-01`); a table is `a table`.
    """
    text = _toml_text(value)
    return text if len(text) <= _LONGEST_FORMATTED else f"{text[: _LONGEST_FORMATTED - 3]}..."


def service_name(value: object) -> str:
    """Return the name of a service. Raises ValueError, with the value and the rule, if the registry refuses the name.

    A name has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with a letter, a digit or `_`.
    """
    if not isinstance(value, str):
        raise ValueError(f"{format_value(value)} is not the name of a service, which is text")
    try:
        return validate_service(value)
    except RecordError as error:
        raise ValueError(str(error)) from None


def is_service_name(text: str) -> bool:
    """Return True if `text` is a valid name of a service: see `service_name`."""
    try:
        service_name(text)
    except ValueError:
        return False
    return True


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


def one_or_many(value: object) -> list[Any] | tuple[Any, ...]:
    """Return lists and tuples as given, and any other value as a tuple with that value alone."""
    return value if isinstance(value, list | tuple) else (value,)


def _seconds(value: object) -> float | None:
    """Return the duration in seconds, at least 0, or None if the value has no valid form."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1e18 else None  # float() of a larger int may raise OverflowError
    if not isinstance(value, str) or len(value) > _LONGEST_DURATION_TEXT:
        return None
    if re.fullmatch(_NUMBER, value):
        return float(value)
    if not re.fullmatch(f"({_DURATION})+", value):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION, value))


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


def _toml_text(value: object) -> str:
    """Return a value in words of TOML, of any length."""
    import datetime as dt  # imported on use: only error messages need dates

    match value:
        case bool():
            return str(value).lower()
        case dt.datetime():  # before dt.date, the base class of dt.datetime
            return f"the date and time {value}"
        case dt.date():
            return f"the date {value}"
        case dt.time():
            return f"the time of day {value}"
        case list() | tuple():
            return f"[{', '.join(map(_toml_text, value))}]"
        case Mapping():
            return "a table"
    return repr(value)


def _explicit(port: int) -> str:
    return (
        f"write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every IPv4 address,"
        f" or [::]:{port} for every IPv6 address"
    )


TTL = Duration(1, 3600)
"""The TTL of a record in seconds, after which the record of a dead machine expires.

Below 1 s a busy machine loses its lease; above 1 h dead backends stay too long.
"""
CHECK_TIME = Duration(0.1, 3600)
"""The interval or the timeout of a check in seconds. Below 100 ms the checks themselves are a load on the backend."""
WEIGHT = WholeNumber(0, MAX_WEIGHT)
"""The weight of a backend in a registry record."""

Bind = Annotated[str, BindAddress()]
"""An address to listen on, or a Unix socket: see `BindAddress`."""
ServiceName = Annotated[str, _ServiceName()]
"""The name of a service: see `service_name`."""
Weight = Annotated[int, WEIGHT]
"""The weight of a backend relative to the other backends of its service, 0-256; 0: no new connections."""
Port = Annotated[int, WholeNumber(1, 65535)]
"""A port of TCP or UDP, 1-65535."""
Rise = Annotated[int, WholeNumber(1, _MOST_IN_A_ROW)]
"""The number of successes in a row that end a failure, 1-1000."""
Fall = Annotated[int, WholeNumber(1, _MOST_IN_A_ROW)]
"""The number of failures in a row that begin a failure, 1-1000."""
OneOrMany = Annotated[tuple[T, ...], _OneOrMany()]
"""A list of values, or a single value: `OneOrMany[int]` accepts `80` and `[80, 443]`. The value is a tuple."""
Network = Annotated[str, _Network()]
"""An IP network: see `network`."""
Networks = OneOrMany[Network]
"""IP networks: a list of networks, or a single network."""
Senders = Annotated[tuple[Annotated[str, _Sender()], ...], _Senders()]
"""The networks whose clients may send a PROXY protocol header, and `UNIX`. `false`: none."""
