"""Options of the health checks of backends."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import Fall, HostHeader, HttpMethod, HttpStatuses, RequestTarget, Rise, check_kind
from discovery_haproxy.options.labels import CheckPort
from discovery_haproxy.options.values import TIME, HAProxyTime, haproxy_time

_CHECK_SHARE = 1 / 2
"""Share of a check's interval in which a backend must answer. With `_FAST_SHARE`, a backend that hangs is down after
`fall` intervals, if `fall` is 3 or more: one interval, `fall` checks without an answer, and the times between them."""
_FAST_SHARE = 1 / 4
"""Share of a check's interval from a failed check to the next check."""
_CHECK_MOST_SECONDS = 5.0
"""Longest time in seconds for the answer to a check, however long the interval: nothing healthy takes longer."""
_CHECK_LEAST_SECONDS = 0.1
"""Shortest time in seconds for the answer to a check: less is lost to a machine's load alone."""
_SHORTEST_SECONDS = 0.001
"""HAProxy's resolution of time in seconds."""
_MOST_CHARACTERS = 400
"""Characters to send or to expect: a line of HAProxy's configuration has at most 2,048 bytes, two for each byte."""

Conversation = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]
"""A text to send to a server, or to expect from a server, such as a command and the line end \\r\\n."""


class CheckConfig(PluginConfig):
    """A health check of a backend: a TCP connection, with `expect` an answer on it, or with `path` an HTTP request."""

    path: RequestTarget | None = None
    method: HttpMethod = "GET"
    host: HostHeader = "localhost"
    status: HttpStatuses = "200-399"
    send: Conversation | None = None
    """What a TCP check sends once it is connected."""
    expect: Conversation | None = None
    """What the answer to a TCP check must contain."""
    interval: HAProxyTime = "2s"
    fall: Fall = 3
    rise: Rise = 2
    init_state: Literal["up", "down"] = "up"
    """State of a server before its first check: down if the check decides which backend may have traffic at all."""
    port: CheckPort = None
    """Port to check, or the label that has it. Default: the backend's own port."""

    @property
    def timeout(self) -> str:
        """Time in which a backend must answer a check, unless `timeouts.check` is set."""
        return haproxy_time(max(_CHECK_LEAST_SECONDS, min(_CHECK_MOST_SECONDS, self._interval * _CHECK_SHARE)))

    @property
    def fast_interval(self) -> str:
        """Time from a failed check to the next check, and from the first good check of a backend that was down."""
        return haproxy_time(max(_SHORTEST_SECONDS, self._interval * _FAST_SHARE))

    @property
    def send_hex(self) -> str:
        """What is sent, in hexadecimal digits, which have no meaning in HAProxy's syntax; empty for nothing."""
        return (self.send or "").encode().hex()

    @property
    def expect_hex(self) -> str:
        """What is expected, in hexadecimal digits; empty for nothing."""
        return (self.expect or "").encode().hex()

    @property
    def _interval(self) -> float:
        return TIME.parse(self.interval)

    @model_validator(mode="after")
    def _check_kind(self) -> "CheckConfig":
        check_kind(path=self.path, send=self.send, expect=self.expect, given=self.model_fields_set)
        return self


def _check(value: object) -> object:
    return {} if value is True else None if value is False else value


Check = Annotated[CheckConfig | None, BeforeValidator(_check, json_schema_input_type=bool | CheckConfig)]
"""A check, or None for no check; `true` is the check with the defaults."""
