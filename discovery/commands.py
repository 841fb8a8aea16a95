"""The interface for authors of drop-in commands: shared options, `serve`, and the printing of results.

Public API. A drop-in command is a function, as typer takes a function, that an entry point of the group
`discovery.commands` names. A command is only a shorthand for a configuration: the command makes a configuration from
its arguments, and `serve` runs the daemon with the configuration. Every function is for the main thread.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.interrupts import interrupts_handled, run_coroutine
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    ForceOption,
    JsonOption,
    RunDirOption,
    TakeoverOption,
    overrides,
    parsed_option,
    settings_of,
    start_logging,
)
from discovery.cli.table import print_table
from discovery.daemon.configfile import file_in_use
from discovery.errors import ConfigError, RecordError
from discovery.fields import TTL
from discovery.model import join_host_port
from discovery.validity import parse_address

if TYPE_CHECKING:
    from discovery.daemon.instances import Instances
    from discovery.daemon.settings import Settings

__all__ = [
    "LINK_ADDRESS",
    "LINK_PORT",
    "AdminCAOption",
    "AdminCertOption",
    "AdminFiles",
    "AdminKeyOption",
    "AdminOption",
    "AdminTokenFileOption",
    "ConfigOption",
    "ForceOption",
    "JsonOption",
    "OwnerOption",
    "RegistryOption",
    "ReplaceOption",
    "RunDirOption",
    "StateDirOption",
    "TakeoverOption",
    "TtlOption",
    "ask_daemon",
    "configured_admin",
    "drop_in_registry",
    "linked_registry",
    "note",
    "parsed_option",
    "print_table",
    "result",
    "serve",
]

LINK_ADDRESS = "ETCD_PORT_10000_TCP_ADDR"
LINK_PORT = "ETCD_PORT_10000_TCP_PORT"
_LINK_NAME = "ETCD_NAME"
"""Set by every Docker link with the alias `etcd`, to `/CONTAINER/etcd`. etcd has a variable of this name, too."""
_LINKED = re.compile(r"/[^/\s]+/[^/\s]+")
_LINKED_PORT = re.compile(r"ETCD_PORT_([0-9]{1,5})_TCP_ADDR")

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        metavar="URL",
        envvar="DISCOVERY_REGISTRY",
        help=f"Where backends are recorded. Default: what {LINK_ADDRESS} and {LINK_PORT} say, else the configuration's"
        " [registry], else etcd://127.0.0.1:2379.",
    ),
]
TtlOption = Annotated[float, parsed_option(TTL, "Time that the record stays after this machine has failed.")]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", readable=False, envvar="DISCOVERY_STATE_DIR", help="Where the last good snapshot is kept."
    ),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Take over from the same command, if the command already runs.")
]
OwnerOption = Annotated[
    str | None, typer.Option(help="The record's owner. Default: this machine, user, run directory and key.")
]


def drop_in_registry(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL of a drop-in command's registry: `given`, else from Docker's link variables, else as configured.

    `given` is the value of the option `--registry`. `environment` has the link variables, and `DISCOVERY_CONFIG`, which
    names the configuration file. The URL may have a password. A command that calls `serve(registry=given or
    linked_registry())` uses the same registry, and follows changes of the file. Raises ConfigError for link variables
    without an address, for a link without the registry's port where the file names no registry, and for an invalid
    file.
    """
    if given:
        return given
    if linked := linked_registry(environment):
        return linked
    from discovery.daemon.config import load_settings
    from discovery.daemon.settings import INSTANCES

    path = file_in_use(None, environment)
    _refuse_link_without_port(path, environment)
    return load_settings(path, leave_out=INSTANCES).registry.text


def ask_daemon(path: str, admin: str | None, files: AdminFiles, config: Path | None = None) -> dict[str, Any]:
    """Return the JSON object that the daemon answers to a GET of `path`, which is quoted already.

    `admin` is the value of `AdminOption`, `files` has those of the other options of the admin endpoint, and `config` is
    that of `ConfigOption`: what is None is the configuration file's. Waits for the answer, for 10 s at most. Raises
    ConfigError for a setting that is not valid, and another DiscoveryError, with the way out, if there is no answer,
    or an error.
    """
    from discovery.cli.asking import admin_address, ask

    return ask(admin_address(admin, config, files), path)


def configured_admin(config: Path | None = None) -> str:
    """Return the `HOST:PORT` of the daemon's admin endpoint, from the file `config`, or else from the file in use.

    Raises ConfigError if the endpoint is off, and for an invalid file.
    """
    settings = settings_of(config)
    if settings.admin is None:
        raise ConfigError(f"the admin endpoint is off in {file_in_use(config)}; name one with --admin HOST:PORT")
    host, port = settings.admin
    return join_host_port(host, port)


def linked_registry(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the registry that Docker's link variables in `environment` name; None without the variables.

    Raises ConfigError if the variables name no address.
    """
    host, port = environment.get(LINK_ADDRESS, ""), environment.get(LINK_PORT, "")
    if not host and not port:
        return None
    way_out = "set both as a Docker link does, or name the registry with --registry or DISCOVERY_REGISTRY"
    for name, value, other in ((LINK_ADDRESS, host, LINK_PORT), (LINK_PORT, port, LINK_ADDRESS)):
        if not value:
            raise ConfigError(f"{other} is set and {name} is not: {way_out}")
    address = join_host_port(host, port)
    try:
        parse_address(address)
    except RecordError as error:
        raise ConfigError(f"{LINK_ADDRESS} and {LINK_PORT} name no registry: {error}: {way_out}") from None
    return f"etcd://{address}"


def _refuse_link_without_port(path: Path | None, environment: Mapping[str, str]) -> None:
    """Raise ConfigError if Docker's link variables lack the port, and the file at `path` names no registry.

    The link says that the registry is another than the default one.
    """
    if not _LINKED.fullmatch(environment.get(_LINK_NAME, "")):
        return
    from discovery.daemon.configfile import read_file

    if path is not None and "registry" in read_file(path):
        return
    ports = sorted(int(found[1]) for name in environment if (found := _LINKED_PORT.fullmatch(name)))
    exposed = f"exposes only the ports {', '.join(map(str, ports))}" if ports else "exposes no port"
    raise ConfigError(
        f"{_LINK_NAME} tells of a Docker link, and {LINK_ADDRESS} is not set: the linked container {exposed}. Start the"
        " linked container with --expose 10000, or name the registry with --registry or DISCOVERY_REGISTRY"
    )


@interrupts_handled()
def serve(
    *,
    registry: str | None = None,
    consumers: Mapping[str, Mapping[str, Any]] | None = None,
    providers: Mapping[str, Mapping[str, Any]] | None = None,
    run_dir: Path | None = None,
    state_dir: Path | None = None,
    replace: bool = False,
    config: Path | None = None,
    admin: str | None = None,
    admin_token_file: Path | None = None,
) -> int:
    """Run the daemon until the daemon is stopped. Return the exit code, as `discovery run` does.

    `consumers` and `providers` are tables as in a configuration file, by instance name. `admin` is the `HOST:PORT` of
    the admin endpoint; None, the default, is no endpoint, whatever the environment and the file say. `registry` is a
    URL, `run_dir` and `state_dir` are directories, and `admin_token_file` is the file of the token that the admin
    endpoint asks for. What of these four is None is taken from the environment, or else from the configuration file
    `config`, or else from the file in use. The daemon follows the file. With `replace` the
    daemon takes over from a daemon of the same instances.

    Runs an event loop of its own, so no loop may run. Raises ConfigError for invalid tables or settings, and for a
    Docker link without the registry's port where no registry is named.
    """
    import structlog

    from discovery.daemon.daemon import Daemon
    from discovery.daemon.instances import load

    tables = {"consumers": dict(consumers or {}), "providers": dict(providers or {})}
    given = overrides(
        registry=registry,
        admin="off" if admin is None else admin,
        admin_token_file=admin_token_file,
        run_dir=run_dir,
        state_dir=state_dir,
    )
    with suppress(ConfigError):
        if registry and registry == linked_registry():
            given = dataclasses.replace(given, variables={**given.variables, "registry": LINK_ADDRESS})
    path = file_in_use(config)
    if given.registry is None:
        _refuse_link_without_port(path, os.environ)

    def again() -> tuple["Settings", "Instances"]:
        return load(path, given, instances=tables)

    loaded = again()
    start_logging(loaded[0])

    async def run() -> int:
        # Each set of instances has its own name, short enough for a socket's path: commands may share a run directory.
        instances = "+".join(sorted({**tables["consumers"], **tables["providers"]}))
        name = f"daemon-{hashlib.sha256(instances.encode()).hexdigest()[:16]}"
        log = structlog.get_logger()
        return await Daemon(loaded, again, path, log, replace=replace, name=name).run()

    return run_coroutine(run())
