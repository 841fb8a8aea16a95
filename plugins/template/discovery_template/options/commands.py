"""Options of commands, reloads, proofs and programs."""

import signal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import Duration, format_value

_COMMAND_SECONDS = Duration(0.1, 600)
"""A command is run again and again: one that takes more than ten minutes hangs."""


def _command(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(
            f"{format_value(value)} is text, which would need a shell: write the program and its arguments as a list,"
            f' such as ["{(value.split() or ["program"])[0]}", ...]'
        )
    if value in ([], ()):
        raise ValueError("the list is empty: write the program and its arguments")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ValueError("a URL with a user or a password would be shown in messages: use a 'command'")
    try:
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(f"{format_value(value)} is not the address of a request, such as http://127.0.0.1:8080/reload")
    return value


def _signal(value: object) -> object:
    name = value.upper().removeprefix("SIG") if isinstance(value, str) else ""
    if f"SIG{name}" not in signal.Signals.__members__:
        raise ValueError(f"{format_value(value)} is not the name of a signal, such as HUP, USR1 or TERM")
    return name


def _table(value: object) -> object:
    return {"command": _command(value)} if isinstance(value, str | list | tuple) else value


def _proof(value: object) -> object:
    return {"url": value} if isinstance(value, str) else _table(value)


Command = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_command),
    Field(json_schema_extra={"minItems": 1}),  # `min_length` also counts arguments that are not valid
]
"""A program and its arguments: never a shell."""
SignalName = Annotated[str, BeforeValidator(_signal, json_schema_input_type=str)]
"""The name of a signal, with or without SIG."""
HttpUrl = Annotated[str, Field(pattern=r"^https?://[!-~]+$"), AfterValidator(_url)]


class ReloadConfig(PluginConfig):
    """How a program is made to read its files again: by exactly one of `command`, `signal` and `url`."""

    command: Command | None = None
    signal: SignalName | None = None
    """Signal to the process in `pid_file`, or to the program of `run`."""
    pid_file: Path | None = None
    """File with the process id of the program that gets the signal."""
    url: HttpUrl | None = None
    """Address of a request, which must be answered with a status below 300."""
    method: Literal["POST", "PUT", "GET"] = "POST"
    timeout: Annotated[float, _COMMAND_SECONDS] = 30.0

    @model_validator(mode="after")
    def _check_kind(self) -> "ReloadConfig":
        if sum(each is not None for each in (self.command, self.signal, self.url)) != 1:
            raise ValueError("a reload has exactly one of 'command', 'signal' and 'url'")
        if self.pid_file is not None and self.signal is None:
            raise ValueError("'pid_file' is for a 'signal'")
        return self


class ProofConfig(PluginConfig):
    """What must show the new state after a reload: by exactly one of `command` and `url`."""

    command: Command | None = None
    """Command that must exit with 0."""
    url: HttpUrl | None = None
    """Address whose answer must have the `status`, and contain the text `contains`."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    contains: str | None = None
    """Text of the answer; `{generation}` stands for what `{{ generation }}` is in the templates."""
    timeout: Annotated[float, _COMMAND_SECONDS] = 10.0
    """Time within which the program must show the new state."""

    @model_validator(mode="after")
    def _check_kind(self) -> "ProofConfig":
        if (self.command is None) == (self.url is None):
            raise ValueError("a proof has exactly one of 'command' and 'url'")
        if self.contains is not None and self.url is None:
            raise ValueError("'contains' is for a 'url'")
        return self


class RunConfig(PluginConfig):
    """A program that the plugin starts, in the foreground, and supervises."""

    command: Command
    stop_signal: SignalName = "TERM"
    """Signal that ends the program gracefully."""
    stop_timeout: Annotated[float, Duration(0.1, 60)] = 8.0
    """Time that the program has to end."""


Reload = Annotated[ReloadConfig, BeforeValidator(_table, json_schema_input_type=list[str] | ReloadConfig)]
Proof = Annotated[ProofConfig, BeforeValidator(_proof, json_schema_input_type=str | list[str] | ProofConfig)]
Run = Annotated[RunConfig, BeforeValidator(_table, json_schema_input_type=list[str] | RunConfig)]
