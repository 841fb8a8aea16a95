"""Command line options that `ambassador` and `forward` share, and the configuration for these options."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer

from discovery.commands import parsed_option
from discovery_tcpproxy.config import DRAIN, HOLD, IDLE_TIMEOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """Options of a TCP proxy on the command line."""

    hold: Annotated[
        float | None,
        parsed_option(HOLD, "How long a client waits while there is no usable backend. Default: 30s."),
    ] = None
    idle_timeout: Annotated[
        float | None,
        parsed_option(IDLE_TIMEOUT, "The time without a byte after which a connection is closed. Default: never."),
    ] = None
    accept_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Load balancers in front, which send the client's address by the PROXY protocol. Repeatable.",
        ),
    ] = None
    send_proxy: Annotated[
        Literal["v1", "v2"] | None, typer.Option(help="Send the client's address to backends, by the PROXY protocol.")
    ] = None
    on_leave: Annotated[
        Literal["continue", "close"] | None,
        typer.Option(
            help="Whether connections to a backend that leaves the registry continue or are closed. Default: continue."
        ),
    ] = None
    drain: Annotated[
        float | None,
        parsed_option(
            DRAIN,
            "How long connections may continue after their backend has left the registry, and after a stop."
            " Default: no limit after the backend has left, 30s after a stop.",
        ),
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every connection at its end.")] = False

    def table(self, name: str, binds: Sequence[str], **listener: Any) -> Mapping[str, Any]:
        """Return the configuration of a consumer with a single listener. Keys with the value None are left out."""
        listener |= {
            "bind": list(binds),
            "hold": self.hold,
            "idle_timeout": self.idle_timeout,
            "accept_proxy": self.accept_proxy,
            "send_proxy": self.send_proxy,
            "on_leave": self.on_leave,
            "drain": self.drain,
        }
        table: dict[str, Any] = {
            "plugin": "tcpproxy",
            "workers": self.workers,
            "access_log": self.access_log,
            "listen": {name: {key: value for key, value in listener.items() if value is not None}},
        }
        return table if self.drain is None else table | {"grace": self.drain}


def with_proxy_options(command: Callable[..., int]) -> Callable[..., int]:
    """Turn each field of `ProxyOptions` into an option of a command with the parameter `options`.

    typer has no support for options that are grouped in a class.
    """
    hints = get_type_hints(ProxyOptions, include_extras=True)
    parameters_of_options = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(ProxyOptions)
    ]

    @wraps(command)
    def run(**given: Any) -> int:
        return command(
            options=ProxyOptions(**{each.name: given.pop(each.name) for each in parameters_of_options}), **given
        )

    signature = inspect.signature(command, eval_str=True)
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]
    place = [each.name for each in parameters].index("options")
    parameters[place : place + 1] = parameters_of_options
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
