"""Types of the configuration's values: durations, lines, addresses to listen on, host patterns, path prefixes.

HAProxy takes much that it should not (a missing port, `:80x`, `127.1`, a `#` that cuts the line), so each value is
checked here.
"""

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST = 24 * _MILLISECONDS["d"]  # HAProxy's timers are 31 bits of milliseconds
_SECTIONS = re.compile(
    r"global|defaults|frontend|backend|listen|resolvers|peers|userlist|mailers|program|ring|cache"
    r"|http-errors|log-forward|fcgi-app|crt-list|crt-store|acme|traces"
)
_BALANCE = re.compile(
    r"roundrobin|static-rr|leastconn|first|source|random(\([0-9]+\))?|rdp-cookie(\([\w-]+\))?"
    r"|uri( whole| path-only| len [0-9]+| depth [0-9]+)*|url_param [\w.-]+( check_post)?|hdr\([\w-]+\)"
)
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?(\.\*)?")
_PATH = re.compile(r"/[A-Za-z0-9_.~!$&'()*+,;=:@%/-]*")
_STATUS = re.compile(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*")


def duration(value: object) -> str:
    """A time with its unit, as HAProxy writes it; a bare number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LONGEST:
        value = f"{round(value * 1000)}ms"
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[1]) * _MILLISECONDS[match[2]] <= _LONGEST:
        raise ValueError(f"{value!r} is not a time from 1ms to 24d: write 500ms, 10s, 5m, 2h, or a number of seconds")
    return match[0]


def milliseconds(time: str) -> int:
    """How long a `duration` is."""
    match = _DURATION.fullmatch(time)
    if match is None:
        raise ValueError(f"{time!r} is not a duration")
    return int(match[1]) * _MILLISECONDS[match[2]]


def bind_address(value: str) -> str:
    """`HOST:PORT`, `[IPV6]:PORT`, `*:PORT` or the absolute path of a socket, in the one form that each has."""
    if value.startswith("/"):
        if not re.fullmatch(r"/[\w./@+-]{1,100}", value):
            raise ValueError(f"{value!r} is not a socket's path of at most 100 letters, digits and _./@+-")
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{value!r} is not HOST:PORT with a port from 1 to 65535: write 127.0.0.1:8080 or *:8080")
    if host in {"", "*"}:
        return f"0.0.0.0:{int(port)}"
    if host == "localhost":
        return f"127.0.0.1:{int(port)}"
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise ValueError(
            f"{value!r} does not begin with an IP address: write 127.0.0.1:{port}, [::1]:{port} or *:{port}"
        ) from None
    if address.version == 6 and not host.startswith("["):
        raise ValueError(f"{value!r}: an IPv6 address goes in brackets: [{host}]:{port}")
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


def _line(value: str) -> str:
    if any(character < " " or character == "\x7f" for character in value.replace("\t", " ")):
        raise ValueError(f"{value[:60]!r} is more than one line, or has a control character in it")
    words = value.split(maxsplit=1)
    if not words:
        raise ValueError("the line is empty")
    if _SECTIONS.fullmatch(words[0]):
        raise ValueError(f"{value[:60]!r} would begin a new section: that takes a template of your own")
    return value.strip()


def _host(value: str) -> str:
    pattern = value.lower()
    if len(pattern) > 253 or not _HOST.fullmatch(pattern):
        raise ValueError(f"{value!r} is no host: write example.com, *.example.com, example.* or * (without a port)")
    return pattern


def _path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError(f"{value!r} is not a path that begins with '/'")
    return value.rstrip("/") or "/"


def _balance(value: str) -> str:
    if not _BALANCE.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a balance algorithm: roundrobin, leastconn, random, first, source, static-rr, uri,"
            " url_param NAME, hdr(NAME) or rdp-cookie"
        )
    return value


def _status(value: object) -> object:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if not _STATUS.fullmatch(text):
        raise ValueError(f"{value!r} is no HTTP status: write 200, 200-399 or a list of these")
    return text


def listed(value: Any) -> Any:
    """One value where several may stand."""
    return value if isinstance(value, list | tuple) else (value,)


def words(line: str) -> list[str]:
    """The words of a line, as HAProxy reads them: its quotes and backslashes are those of a shell."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quote is not closed, which HAProxy refuses
        return line.split()


def _matching(pattern: str, meaning: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not {meaning}")
        return value

    return AfterValidator(check)


def one_or_more(item: Any) -> BeforeValidator:
    """Lets a lone `item` stand for a list of one, in the JSON schema too."""
    return BeforeValidator(listed, json_schema_input_type=item | list[item])


Duration = Annotated[str, BeforeValidator(duration, json_schema_input_type=str | float)]
Address = Annotated[str, AfterValidator(bind_address)]
Line = Annotated[str, AfterValidator(_line)]
Lines = Annotated[tuple[Line, ...], one_or_more(str)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], one_or_more(str)]
Prefixes = Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], one_or_more(str)]
Balance = Annotated[str, AfterValidator(_balance)]
Status = Annotated[str, BeforeValidator(_status, json_schema_input_type=int | str | list[int | str])]
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Paths = Annotated[tuple[AbsolutePath, ...], one_or_more(str)]
Method = Annotated[str, _matching(r"[A-Z]{1,16}", "an HTTP method")]
RequestTarget = Annotated[str, _matching(r"/[!-~]*", "a path that begins with '/'")]
HostHeader = Annotated[str, _matching(r"[A-Za-z0-9_.:\[\]-]{1,255}", "a Host header")]
CookieName = Annotated[str, _matching(r"[A-Za-z0-9_-]{1,64}", "a cookie's name of letters, digits, _ and -")]
Connections = Annotated[int, Field(ge=1, le=10_000_000)]
