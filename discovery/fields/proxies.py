"""Options of proxies: how requests are balanced, and how backends are checked."""

import re
from collections.abc import Collection
from typing import Annotated, Any

from discovery.fields.parsed import Parsed, format_value

_STATUSES = re.compile(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*")


class Matching:
    """Metadata of an `Annotated` text: the whole text matches a pattern.

    A text that does not match is refused as `TEXT is not MEANING`.
    """

    __slots__ = ("_meaning", "_pattern")

    def __init__(self, pattern: str, meaning: str) -> None:
        """Keep the regular expression `pattern`, and in words the `meaning` of a text that matches."""
        self._pattern = re.compile(pattern, re.ASCII)
        self._meaning = meaning

    def check(self, value: str) -> str:
        """Return the text `value`. Raises ValueError if `value` does not match."""
        if not self._pattern.fullmatch(value):
            raise ValueError(f"{format_value(value)} is not {self._meaning}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the schema by which pydantic validates."""
        from pydantic_core import core_schema  # imported on use: see the docstring of `discovery.fields.parsed`

        return core_schema.no_info_after_validator_function(self.check, handler(source))


class _Statuses(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if not _STATUSES.fullmatch(text):
            raise ValueError(f"{format_value(value)} is not an HTTP status: write 200, 200-399 or a list of these")
        return text

    def json_schema(self) -> dict[str, Any]:
        single = [{"type": "integer"}, {"type": "string", "examples": ["200", "200-399"]}]
        return {"anyOf": [*single, {"type": "array", "items": {"anyOf": single}}]}


def check_kind(*, path: str | None, send: str | None, expect: str | None, given: Collection[str]) -> None:
    """Raise ValueError if the options of a health check belong to several kinds of checks.

    A check with `path` is an HTTP request, another is a TCP connection, on which `send` is sent and `expect` awaited.
    `given` are the names of the options that a person has written.
    """
    for name in ("method", "host", "status"):
        if path is None and name in given:
            raise ValueError(f"{name!r} is for an HTTP check: give it a 'path', such as \"/\"")
    if path is not None and (send or expect):
        raise ValueError("'send' and 'expect' are for a TCP check, and 'path' makes an HTTP check: remove either")
    if send and not expect:
        raise ValueError("'send' has no effect without 'expect': write what the answer must contain")


BalanceAlgorithm = Annotated[
    str,
    Matching(
        r"roundrobin|static-rr|leastconn|first|source|random(\([0-9]+\))?|rdp-cookie(\([\w-]+\))?"
        r"|uri( whole| path-only| len [0-9]+| depth [0-9]+)*|url_param [\w.-]+( check_post)?|hdr\([\w-]+\)",
        "a balance algorithm: roundrobin, leastconn, random, first, source, static-rr, uri, url_param NAME, hdr(NAME)"
        " or rdp-cookie",
    ),
]
"""An algorithm that chooses a backend for each request or connection, in HAProxy's words."""
HttpStatuses = Annotated[str, _Statuses()]
"""Statuses of HTTP answers: `200`, `200-399`, or a list of these; as text with commas."""
HttpMethod = Annotated[str, Matching(r"[A-Z]{1,16}", "an HTTP method")]
"""A method of HTTP, such as `GET`."""
RequestTarget = Annotated[str, Matching(r"/[!-~]*", "a path that begins with '/'")]
"""The path, and the query, of an HTTP request."""
HostHeader = Annotated[str, Matching(r"[A-Za-z0-9_.:\[\]-]{1,255}", "a Host header")]
"""The value of the header `Host`: a name or an address, with or without a port."""
