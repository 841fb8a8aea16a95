"""Types of the options' values: durations, lines, addresses to listen on and more.

HAProxy accepts faulty values (a missing port, `:80x`, `127.1`, a `#` that ends the line), so these types check every
value.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from discovery.fields import (
    UNIX_PREFIX,
    BindAddress,
    Duration,
    Matching,
    OneOrMany,
    WholeNumber,
    duration_text,
    format_value,
)
from discovery_haproxy.text.words import SECTIONS, words

TIME = Duration(0.001, 24 * 86400)
"""Type of a duration from 1 ms to 24 days: HAProxy's timers are 31 bits of milliseconds."""
_QUOTED_CHARACTERS = 60
"""Characters of a line in an error message, which is one line itself."""
_LOG_FORMAT_CHARACTERS = 4096
"""Characters of a log format: far more than a readable one has, and less than HAProxy's limit of a line."""
_BIND = BindAddress()
_DESCRIPTOR = re.compile(r"stdout|stderr|fd@[0-9]+")
_SOCKET = re.compile(r"/[\w./@+-]{1,100}")


def bind_address(value: object) -> str:
    """Return `IP:PORT`, `[IPV6]:PORT` or the absolute path of a socket, in canonical form. Raises ValueError."""
    return _without_prefix(_BIND.parse(value))


def _without_prefix(bind: str) -> str:
    """Return a bind in HAProxy's form, in which the path of a Unix socket has no prefix. Raises ValueError."""
    path = bind.removeprefix(UNIX_PREFIX)
    if path.startswith("/") and not _SOCKET.fullmatch(path):
        raise ValueError(f"{path!r} is not a socket's path of at most 100 letters, digits and _./@+-")
    return path


def haproxy_time(seconds: float) -> str:
    """Return a duration in HAProxy's form, rounded to milliseconds."""
    return duration_text(round(seconds * 1000) / 1000)


def _line(value: str) -> str:
    if any(character < " " or character == "\x7f" for character in value.replace("\t", " ")):
        raise ValueError(f"{value[:_QUOTED_CHARACTERS]!r} is more than one line, or has a control character in it")
    if not value.strip():
        raise ValueError("the line is empty")
    if any(map(SECTIONS.fullmatch, words(value)[:1])):
        raise ValueError(
            f"{value[:_QUOTED_CHARACTERS]!r} would begin a new section: use a template of your own for that"
        )
    return value.strip()


def _access_log(value: object) -> object:
    """Return True, False, or the address of a syslog server in HAProxy's form. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and _DESCRIPTOR.fullmatch(value):
        raise ValueError(
            f"{value!r} is a stream of the daemon, which HAProxy outlives: write true for the daemon's log,"
            " or the address of a syslog server such as 127.0.0.1:514 or /dev/log"
        )
    try:
        target = bind_address(value)
    except ValueError:
        target = ""
    if not target or target.startswith(("0.0.0.0:", "[::]:")):
        raise ValueError(
            f"{format_value(value)} is not true, false or the address of a syslog server:"
            " write 127.0.0.1:514 (UDP), or the path of a Unix socket such as /dev/log"
        )
    return target


def _log_format(value: str) -> str:
    if not value or not value.isprintable() or len(value) > _LOG_FORMAT_CHARACTERS:
        raise ValueError(
            f"{format_value(value)} is not a log format: one line of 1 to {_LOG_FORMAT_CHARACTERS} printable characters"
        )
    return value


HAProxyTime = Annotated[str, TIME, AfterValidator(haproxy_time)]
Address = Annotated[str, _BIND, AfterValidator(_without_prefix)]
Line = Annotated[str, AfterValidator(_line)]
Lines = OneOrMany[Line]
AccessLog = Annotated[bool | str, BeforeValidator(_access_log)]
"""True, False, or the address of a syslog server: `IP:PORT` or the path of a Unix socket."""
LogFormat = Annotated[str, AfterValidator(_log_format)]
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Paths = OneOrMany[AbsolutePath]
CookieName = Annotated[str, Matching(r"[A-Za-z0-9_-]{1,64}", "a cookie's name of letters, digits, _ and -")]
HeaderName = Annotated[str, Matching(r"[A-Za-z0-9_-]{1,100}", "a header's name of letters, digits, _ and -")]
CookieDomain = Annotated[
    str, Matching(r"(?=.{1,253}$)\.?[a-z0-9-]+(\.[a-z0-9-]+)+", "the domain of a cookie, such as example.com")
]
Realm = Annotated[str, Matching(r"[ !#-\[\]-~]{1,100}", "a realm of 1 to 100 ASCII characters without quotes")]
Connections = Annotated[int, WholeNumber(1, 10_000_000)]
"""A limit of concurrent connections; 10 million is more than a machine holds, and catches typing errors."""
