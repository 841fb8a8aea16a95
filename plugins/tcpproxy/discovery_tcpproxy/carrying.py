"""The options that `ambassador` and `forward` share, and what they mean in the configuration of `tcpproxy`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrying:
    """The settings for carrying connections."""

    hold: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="How long a client waits while there is nobody to carry it to. Default: 30.",
        ),
    ] = None
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.0, help="Close a connection on which nothing moves for so long. Default: never."
        ),
    ] = None
    accept_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Load balancers in front, which tell who the client is by the PROXY protocol. Repeatable.",
        ),
    ] = None
    send_proxy: Annotated[
        Literal["v1", "v2"] | None, typer.Option(help="Tell backends who the client is, by the PROXY protocol.")
    ] = None
    on_leave: Annotated[
        Literal["continue", "close"] | None,
        typer.Option(help="What becomes of connections to a backend that leaves the registry. Default: continue."),
    ] = None
    drain: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="How long connections go on, at most, once their backend has left the registry, and once this is"
            " stopped. Default: for ever, and 30.",
        ),
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Processes that carry the bytes.")] = 1
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every connection when it has ended.")] = False

    def table(self, name: str, binds: Sequence[str], **listener: Any) -> Mapping[str, Any]:
        """The configuration of a consumer with one listener; None stands for the default."""
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


def takes_carrying(command: Callable[..., int]) -> Callable[..., int]:
    """Make each field of `Carrying` an option of a command that has the parameter `carrying`; typer cannot."""
    hints = get_type_hints(Carrying, include_extras=True)
    options = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(Carrying)
    ]

    @wraps(command)
    def run(**given: Any) -> int:
        return command(carrying=Carrying(**{each.name: given.pop(each.name) for each in options}), **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]
    place = [each.name for each in parameters].index("carrying")
    parameters[place : place + 1] = options
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
