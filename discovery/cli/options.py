"""Options that several commands share, and what they stand for."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from discovery.registry import Registry

DEFAULT_REGISTRY = "etcd://127.0.0.1:2379"


class LogLevel(StrEnum):
    """The least level of what is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


RegistryOption = Annotated[
    str,
    typer.Option(
        "--registry",
        "-r",
        metavar="URL",
        envvar="DISCOVERY_REGISTRY",
        help="Where backends are recorded: etcd://HOST:PORT[,HOST:PORT...][/PREFIX], etcds:// for TLS,"
        " or file:///DIRECTORY.",
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        readable=False,  # not for typer to judge: what we say names the way out
        envvar="DISCOVERY_RUN_DIR",
        help="Where locks and sockets live. Default: /run/discovery for root, $XDG_RUNTIME_DIR/discovery otherwise.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.0, help="How long to wait for the registry before giving up.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def start_logging() -> None:
    """Log to stderr from now on, as the global options or the environment say."""
    from discovery.logs import configure_logging

    configure_logging(
        LogLevel(os.environ.get("DISCOVERY_LOG_LEVEL") or LogLevel.INFO).value,
        LogFormat(os.environ.get("DISCOVERY_LOG_FORMAT") or LogFormat.TEXT).value,
    )


def registry_at(url: str) -> "Registry":
    """The registry that `url` names, a plugin's among them. Raises ConfigError or PluginError."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read once, when grpc is loaded
    from discovery.plugins import open_registry

    return open_registry(url)
