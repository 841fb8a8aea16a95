"""The `check` table of a configuration file."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from discovery.checks import Check, Probe
from discovery.errors import RecordError
from discovery.fields import CHECK_TIME, Fall, Rise, WholeNumber
from discovery.plugin import PluginConfig
from discovery.probes.command import CommandProbe
from discovery.probes.http import HttpProbe, valid_host, valid_method, valid_path, valid_regex
from discovery.probes.tcp import Address, TcpProbe
from discovery.validity import parse_address

_STATUS = {"type": ["string", "integer"]}
_STATUS_SCHEMA = WithJsonSchema({"anyOf": [_STATUS, {"type": "array", "items": _STATUS}]})
_TYPES_OF = {
    **dict.fromkeys(("path", "method", "status", "body", "host", "tls", "verify", "ca"), ("http",)),
    "address": ("http", "tcp"),
    **dict.fromkeys(("command", "draining_exit"), ("command",)),
}


def _ranges(value: Any) -> str:
    """Return HTTP statuses as text ("200-299,304"), from such text, a number, or a list of both. Raises ValueError."""
    parts = value if isinstance(value, list | tuple) else [value]
    texts = [part.strip() for each in parts or ("",) for part in str(each).split(",")]
    for text in texts:
        least, dash, most = text.partition("-")
        if not all(len(n) == 3 and n.isascii() and n.isdigit() for n in ((least, most) if dash else (least,))):
            raise ValueError('write statuses as 200, "200-399", or a list of both forms')
        if int(least) > int(most or least):
            raise ValueError(f"the range {text} is empty")
    return ",".join(texts)


def _parsed(ranges: str) -> tuple[tuple[int, int], ...]:
    pairs = (text.partition("-") for text in ranges.split(","))
    return tuple((int(least), int(most or least)) for least, _, most in pairs)


def _argv(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(part, str) for part in value):
        raise ValueError(
            'must be a list, the program and its arguments: ["/usr/bin/check", "-q"]; no shell runs the program'
        )
    if not value[0] or any("\0" in part for part in value):
        raise ValueError("must begin with a program's name, and have no zero bytes")
    return value


def _host_and_port(text: str) -> str:
    try:
        parse_address(text)
    except RecordError as error:
        raise ValueError(str(error)) from None
    return text


class CheckSettings(PluginConfig):
    """A `check` table of a configuration; `checks` makes the checks of a Candidate."""

    type: Literal["http", "tcp", "command", "none"] = Field("tcp", description="The kind of probe")
    interval: Annotated[float, CHECK_TIME] = Field(5.0, description="The time between two runs")
    timeout: Annotated[float, CHECK_TIME] = Field(2.0, description="The time after which a run has failed")
    rise: Rise = Field(2, description="Successes in a row that end a failure")
    fall: Fall = Field(3, description="Failures in a row that begin a failure")
    on_failure: Literal["withdraw", "drain"] = Field("withdraw", description="The action for a failing backend")
    path: Annotated[str, AfterValidator(valid_path)] = Field("/", description="http: the path of the request")
    method: Annotated[str, AfterValidator(valid_method)] = Field("GET", description="http: the method")
    status: Annotated[str, BeforeValidator(_ranges), _STATUS_SCHEMA] = Field(
        "200-399", description="http: the statuses that pass"
    )
    body: Annotated[str, AfterValidator(valid_regex)] | None = Field(
        None, description="http: RE2 regex to find in the first 64 KiB of the body"
    )
    host: Annotated[str, AfterValidator(valid_host)] | None = Field(None, description="http: the Host header")
    tls: bool = Field(False, description="http: send the request over TLS")
    verify: bool = Field(True, description="http: require a valid certificate")
    ca: Path | None = Field(None, description="http: certificate authorities to trust in place of the system's")
    address: Annotated[str, AfterValidator(_host_and_port)] | None = Field(
        None, description="http, tcp: HOST:PORT to check in place of the backend's own"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(_argv)] | None = Field(
        None, description="command: the program and its arguments"
    )
    draining_exit: Annotated[int, WholeNumber(1, 255)] = Field(
        os.EX_TEMPFAIL, description="command: the exit status that means draining"
    )

    @model_validator(mode="after")
    def _keys_of_its_type(self) -> Self:
        for key in sorted(self.model_fields_set):
            if (types := _TYPES_OF.get(key)) and self.type not in types:
                valid = " or ".join(f'"{name}"' for name in types)
                raise ValueError(f'{key!r} is for type {valid}, and the type of this check is "{self.type}"')
        if self.type == "command" and self.command is None:
            raise ValueError("type \"command\" needs the key 'command'")
        return self

    def checks(
        self, *, path: str | None = None, interval: float | None = None, timeout: float | None = None
    ) -> tuple[Check, ...]:
        """Return the check as configured; empty for type "none".

        A `path` makes an HTTP check of any type. `interval` and `timeout`, in seconds, replace what is configured.
        Raises ValueError, one line with the reason, for an invalid argument.
        """
        if path is None and self.type == "none":
            return ()
        return (
            Check(
                self._http(path) if path is not None else self._probe(),
                _seconds("interval", self.interval if interval is None else interval),
                _seconds("timeout", self.timeout if timeout is None else timeout),
                self.rise,
                self.fall,
                self.on_failure,
            ),
        )

    def _probe(self) -> Probe:
        if self.type == "http":
            return self._http(self.path)
        if self.type == "command":
            return CommandProbe(self.command or (), self.draining_exit)
        return TcpProbe(self._address())

    def _http(self, path: str) -> HttpProbe:
        return HttpProbe(
            path,
            self.method,
            _parsed(self.status),
            self.body,
            self.host,
            self.tls,
            self.verify,
            self.ca,
            self._address(),
        )

    def _address(self) -> Address | None:
        return None if self.address is None else parse_address(self.address)


def _seconds(name: str, value: float) -> float:
    try:
        return CHECK_TIME.parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
