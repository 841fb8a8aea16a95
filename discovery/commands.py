"""What authors of drop-in commands import: the options that they share, `serve`, and how results are printed.

A drop-in command is a function, as typer takes it, that an entry point of the group `discovery.commands` names. It is
only a shorthand for a configuration: it makes one of its arguments, and `serve` runs the daemon with it.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.options import DEFAULT_REGISTRY, JsonOption, RunDirOption
from discovery.cli.table import print_table
from discovery.codec import parse_address
from discovery.errors import ConfigError, RecordError

__all__ = [
    "LINK_ADDRESS",
    "LINK_PORT",
    "ForceOption",
    "JsonOption",
    "OwnerOption",
    "RegistryOption",
    "ReplaceOption",
    "RunDirOption",
    "StateDirOption",
    "TtlOption",
    "drop_in_registry",
    "note",
    "print_table",
    "result",
    "serve",
]

LINK_ADDRESS = "ETCD_PORT_10000_TCP_ADDR"
LINK_PORT = "ETCD_PORT_10000_TCP_PORT"

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        metavar="URL",
        envvar="DISCOVERY_REGISTRY",
        help=f"Where backends are recorded. Default: what {LINK_ADDRESS} and {LINK_PORT} say, else {DEFAULT_REGISTRY}.",
    ),
]
TtlOption = Annotated[
    float, typer.Option(metavar="SECONDS", min=1.0, help="How long it stays registered after this machine died.")
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", readable=False, envvar="DISCOVERY_STATE_DIR", help="Where the last good snapshot is kept."
    ),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Take over from the same command that runs already, if it does.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Take the key over, once, from another live owner.")]
OwnerOption = Annotated[str | None, typer.Option(help="Who registers it. Default: this machine and the key.")]


def drop_in_registry(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The registry of a drop-in command: as given (an option), else as Docker's link variables say, else the default.

    Raises ConfigError for link variables that name no address.
    """
    if given:
        return given
    host, port = environment.get(LINK_ADDRESS, ""), environment.get(LINK_PORT, "")
    if not host and not port:
        return DEFAULT_REGISTRY
    way_out = "set both as a Docker link does, or name the registry with --registry or DISCOVERY_REGISTRY"
    for name, value, other in ((LINK_ADDRESS, host, LINK_PORT), (LINK_PORT, port, LINK_ADDRESS)):
        if not value:
            raise ConfigError(f"{other} is set and {name} is not: {way_out}")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        parse_address(address)
    except RecordError as error:
        raise ConfigError(f"{LINK_ADDRESS} and {LINK_PORT} name no registry: {error}: {way_out}") from None
    return f"etcd://{address}"


def serve(
    *,
    registry: str,
    consumers: Mapping[str, Mapping[str, Any]] | None = None,
    providers: Mapping[str, Mapping[str, Any]] | None = None,
    run_dir: Path | None = None,
    state_dir: Path | None = None,
    replace: bool = False,
) -> int:
    """Run the daemon until it is stopped, and return the exit code: those of `discovery run`.

    `consumers` and `providers` are tables as in a configuration file, by instance name. There is no admin endpoint.
    With `replace` it takes over from a daemon of the same instances. Raises ConfigError for what is wrong with them.
    """
    import structlog

    from discovery.cli.options import start_logging
    from discovery.config import Overrides, parse_settings
    from discovery.daemon import Daemon

    raw = {"consumers": dict(consumers or {}), "providers": dict(providers or {})}
    overrides = Overrides(
        registry=registry,
        admin="off",
        run_dir=run_dir,
        state_dir=state_dir,
        log_level=os.environ.get("DISCOVERY_LOG_LEVEL") or None,
        log_format=os.environ.get("DISCOVERY_LOG_FORMAT") or None,
    )
    start_logging()

    async def run() -> int:
        # A name of its own, of a length that a socket may have: several such commands share one run directory.
        instances = "+".join(sorted({**raw["consumers"], **raw["providers"]}))
        name = f"daemon-{hashlib.sha256(instances.encode()).hexdigest()[:16]}"
        log = structlog.get_logger()
        return await Daemon(lambda: parse_settings(raw, overrides), None, log, replace=replace, name=name).run()

    return asyncio.run(run())
