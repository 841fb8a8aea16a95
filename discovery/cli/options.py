"""Options that several commands share, and the settings that the options stand for.

Each setting comes from the command line, or else from the environment, the configuration file, or the default.
"""

import os
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from discovery.cli.console import note
from discovery.daemon.configfile import DEFAULT_FILE, FILE_VARIABLE, file_in_use
from discovery.fields import Duration, WholeNumber, service_name

if TYPE_CHECKING:
    from discovery.daemon.settings import Overrides, Settings
    from discovery.registry import Registry, RegistryURL

_CLOSE_SECONDS = 5.0
"""Seconds that a registry has to close at the end of a command: a registry of a plugin may hang."""


class AdminFiles(NamedTuple):
    """The files of the command line by which a daemon is asked: the token, whom to trust, and who asks."""

    token: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class LogLevel(StrEnum):
    """The lowest level of log lines."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        readable=False,  # no check by typer: the core's message names the remedy
        help=f"Configuration, TOML. Default: the file in {FILE_VARIABLE}, else {DEFAULT_FILE} if it exists.",
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        metavar="URL",
        envvar="DISCOVERY_REGISTRY",
        help="Where backends are recorded: etcd://HOST:PORT[,HOST:PORT...][/PREFIX], etcds:// for TLS,"
        " or file:///DIRECTORY. Default: the configuration's [registry], else etcd://127.0.0.1:2379.",
    ),
]
AdminOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="DISCOVERY_ADMIN",
        help="The daemon's admin endpoint. Default: the configuration's admin, else 127.0.0.1:9901.",
    ),
]
AdminTokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        readable=False,
        envvar="DISCOVERY_ADMIN_TOKEN_FILE",
        help="The token of the admin endpoint. Default: the configuration's admin_token_file.",
    ),
]
AdminCAOption = Annotated[
    Path | None,
    typer.Option(
        "--admin-ca",
        metavar="FILE",
        readable=False,
        envvar="DISCOVERY_ADMIN_CA",
        help="The daemon is asked over TLS, and its certificate is of these authorities (PEM). Default: it is the"
        " configuration's admin_cert.",
    ),
]
AdminCertOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        readable=False,
        envvar="DISCOVERY_ADMIN_CERT",
        help="The certificate of the client, for TLS (PEM).",
    ),
]
AdminKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", readable=False, envvar="DISCOVERY_ADMIN_KEY", help="The private key of --admin-cert (PEM)."
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        readable=False,
        envvar="DISCOVERY_RUN_DIR",
        help="Where locks and sockets live. Default: the configuration's run_dir, else /run/discovery for root,"
        " $XDG_RUNTIME_DIR/discovery or ~/.local/state/discovery/run otherwise.",
    ),
]


ForceOption = Annotated[bool, typer.Option("--force", help="Take the key over, once, from another live owner.")]
TakeoverOption = Annotated[
    bool, typer.Option("--takeover", help="Ask another live owner, once, to hand the key over, and wait for that.")
]


def parsed_option(kind: Duration | WholeNumber, description: str) -> Any:
    """Return a `typer.Option` whose values `kind` parses, so that the option takes the forms of configuration files.

    The help is `description`, to which the bounds are added. A value that is not valid is a usage error.
    """

    def parse(value: str | float) -> float:
        try:
            return kind.parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    metavar = "DURATION" if isinstance(kind, Duration) else "NUMBER"
    return typer.Option(metavar=metavar, parser=parse, help=f"{description} [{kind.bounds}]")


TimeoutOption = Annotated[
    float,
    parsed_option(Duration(zero="do not wait"), "How long to wait for the registry before giving up."),
]


def _or_before_the_command(context: typer.Context, value: bool) -> bool:
    return value or bool(context.find_root().params.get("as_json"))


JsonOption = Annotated[bool, typer.Option("--json", callback=_or_before_the_command, help="JSON instead of text.")]


def check_service(name: str | None) -> None:
    """Raise ConfigError, with the rule, if `name` is not a valid name of a service; None stands for all services."""
    from discovery.errors import ConfigError

    try:
        if name is not None:
            service_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def overrides(
    *,
    registry: str | None = None,
    admin: str | None = None,
    admin_token_file: Path | None = None,
    run_dir: Path | None = None,
    state_dir: Path | None = None,
    plugins: Collection[str] = (),
    assignments: Collection[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> "Overrides":
    """Return the settings of the command line, and of the environment for settings that the command line lacks."""
    from discovery.daemon.settings import VARIABLES, Overrides
    from discovery.registry.url import PASSWORD_VARIABLE

    given = {
        "registry": registry,
        "admin": admin,
        "admin_token_file": admin_token_file,
        "run_dir": run_dir,
        "state_dir": state_dir,
    }
    options = {name: str(value) for name, value in given.items() if value is not None}
    set_ = {name: value for name, (variable, _) in VARIABLES.items() if (value := environment.get(variable))}
    # typer also reads most of these variables: an option that equals its variable comes from the variable.
    variables = {name: VARIABLES[name][0] for name, value in set_.items() if options.get(name, value) == value}
    every = {**set_, **options}
    return Overrides(
        registry=every.get("registry"),
        plugins=tuple(plugins),
        assignments=tuple(assignments),
        admin=every.get("admin"),
        admin_token_file=Path(every["admin_token_file"]) if "admin_token_file" in every else None,
        run_dir=Path(every["run_dir"]) if "run_dir" in every else None,
        state_dir=Path(every["state_dir"]) if "state_dir" in every else None,
        log_level=every.get("log_level"),
        log_format=every.get("log_format"),
        variables=variables,
        password=bool(environment.get(PASSWORD_VARIABLE)),
    )


def settings_of(
    config: Path | None = None,
    *,
    registry: str | None = None,
    admin: str | None = None,
    admin_token_file: Path | None = None,
    run_dir: Path | None = None,
) -> "Settings":
    """Return the settings of a command that runs no plugin. Options take precedence over the file in use.

    Raises ConfigError, also if the file in use cannot be read.
    """
    from discovery.daemon.config import load_settings
    from discovery.daemon.settings import INSTANCES

    given = overrides(registry=registry, admin=admin, admin_token_file=admin_token_file, run_dir=run_dir)
    return load_settings(file_in_use(config), given, leave_out=INSTANCES)


def start_logging(settings: "Settings") -> None:
    """Configure logging to stderr, and log a warning for each key of the file that the environment overrides."""
    import structlog

    from discovery.system.logs import configure_logging

    configure_logging(settings.log.level, settings.log.format)
    for key, variable in settings.overridden.items():
        structlog.get_logger().warning("the environment overrides the configuration file", key=key, variable=variable)


def start_pass(settings: "Settings") -> None:
    """Configure logging to stderr for a command that ends by itself, and note each setting that the environment names.

    A note, and no line of the log: at any level of the log a person has to know which registry is meant.
    """
    from discovery.system.logs import configure_logging

    configure_logging(settings.log.level, settings.log.format)
    for key, variable in settings.overridden.items():
        if not key.startswith("log."):  # which the result does not depend on
            value = f" ({settings.registry})" if key == "registry" else ""
            note(f"{variable}{value} takes the place of {key!r} in the configuration file")


def registry_at(url: "RegistryURL") -> "Registry":
    """Return the registry that `url` names, of the core or a plugin. Raises ConfigError or PluginError."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read once, when grpc is loaded
    from discovery.hosting.loading import open_registry

    return open_registry(url)


async def close_registry(registry: "Registry") -> None:
    """Close `registry`. A failure is a note, and not raised: the result of the command counts."""
    import asyncio

    from discovery.errors import describe
    from discovery.system.asyncio_tools import wait_for_tasks

    closing = asyncio.ensure_future(registry.close())
    if not await wait_for_tasks({closing}, _CLOSE_SECONDS):
        note(f"the registry was not closed within {_CLOSE_SECONDS:g} s")
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        note(f"the registry was not closed in order: {describe(error)}")
