"""`discovery run`: runs consumers, which follow the registry, and providers, which register backends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import note, progress, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import (
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    RegistryOption,
    RunDirOption,
    TimeoutOption,
    close_registry,
    overrides,
    start_logging,
    start_pass,
)
from discovery.daemon.configfile import file_in_use
from discovery.errors import ConfigError

if TYPE_CHECKING:
    from discovery.consuming.resolving import Resolved
    from discovery.daemon.faults import Faults
    from discovery.daemon.instances import Instances
    from discovery.daemon.settings import Settings


def _plugin_names() -> list[str]:
    from discovery.hosting.loading import installed

    return list(installed())


_OF_ANOTHER_DAEMON = ("consumers", "providers", "admin")
"""Tables of the file in use that `run --plugin` ignores: they are for the daemon that the file alone configures."""

PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        "-p",
        metavar="NAME|FILE.py",
        help="Run this plugin, consumer or provider, as an instance of the same name: an installed plugin, or that of a"
        " file. Repeatable.",
        autocompletion=_plugin_names,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="INSTANCE.KEY=VALUE", help="Set one key of an instance, over the configuration. Repeatable."
    ),
]


def run(
    config: ConfigOption = None,
    registry: RegistryOption = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
    once: Annotated[bool, typer.Option("--once", help="Apply the current state once, and end.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what each consumer would change and each provider register; change nothing."
        ),
    ] = False,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|off",
            envvar="DISCOVERY_ADMIN",
            help="The address of the admin endpoint: health, metrics and state. Default: 127.0.0.1:9901.",
        ),
    ] = None,
    admin_token_file: AdminTokenFileOption = None,
    run_dir: RunDirOption = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", readable=False, envvar="DISCOVERY_STATE_DIR", help="Where the last good snapshot is kept."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Take over from the daemon that runs on the same run directory, if there is one."
        ),
    ] = False,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> int:
    """Run consumers, which follow the registry, and providers, which register what runs here, until stopped.

    SIGHUP, or a change of the configuration file, reads it again and restarts only what changed.

    \b
    discovery run
    discovery run --plugin haproxy --set haproxy.services.web.bind=0.0.0.0:80
    discovery run --plugin apache --plugin haproxy
    discovery run --config /etc/discovery/discovery.toml
    """
    from discovery.daemon.instances import examine, load

    if once and dry_run:
        raise ConfigError("--once and --dry-run exclude each other")
    if as_json and not dry_run:
        raise ConfigError("--json: `discovery run` prints JSON with --dry-run alone")
    if replace and (once or dry_run):
        raise ConfigError(f"--replace and {'--once' if once else '--dry-run'} exclude each other")

    given = overrides(
        registry=registry,
        admin=admin,
        admin_token_file=admin_token_file,
        run_dir=run_dir,
        state_dir=state_dir,
        plugins=plugin or (),
        assignments=set_ or (),
    )
    path = file_in_use(config)
    leave_out = _OF_ANOTHER_DAEMON if plugin and config is None else ()
    if dry_run:
        examined = examine(path, given, leave_out=leave_out)
        start_pass(examined[0])
        return run_coroutine(_dry_run(*examined, timeout, as_json=as_json))
    loaded = load(path, given, leave_out=leave_out)
    if once:
        start_pass(loaded[0])
        return run_coroutine(_once(*loaded, timeout))
    start_logging(loaded[0])
    return run_coroutine(_daemon(loaded, lambda: load(path, given, leave_out=leave_out), path, replace=replace))


async def _daemon(
    loaded: tuple["Settings", "Instances"],
    load: Callable[[], tuple["Settings", "Instances"]],
    config: Path | None,
    *,
    replace: bool,
) -> int:
    import structlog

    from discovery.daemon.daemon import Daemon

    return await Daemon(loaded, load, config, structlog.get_logger(), replace=replace).run()


async def _once(settings: "Settings", instances: "Instances", timeout: float) -> int:
    import structlog

    from discovery.daemon.once import apply_once, check_once
    from discovery.hosting.directories import Directories
    from discovery.system.rundir import base_run_dir
    from discovery.system.statedir import state_dir

    log = structlog.get_logger()
    directories = Directories(base_run_dir(settings.run_dir), state_dir(settings.state_dir))
    check_once(instances, directories, log)
    resolved = await _resolved(settings, timeout)
    failures = await apply_once(instances.consumers.values(), resolved, directories, log)
    failures |= instances.broken
    for name, reason in failures.items():
        note(f"{name}: {reason}")
    return 1 if failures else 0


async def _dry_run(
    settings: "Settings", instances: "Instances", faults: "Faults", timeout: float, *, as_json: bool
) -> int:
    from discovery.cli import dryrun
    from discovery.hosting.directories import Directories
    from discovery.system.rundir import run_dir_path
    from discovery.system.statedir import state_dir

    if faults:
        report = await dryrun.faulty(settings, instances, faults, timeout)
    else:
        directories = Directories(run_dir_path(settings.run_dir), state_dir(settings.state_dir))
        report = await dryrun.survey(settings, instances, directories, timeout, _resolved)
    if as_json:
        result(json.dumps(report.document, indent=2))
    else:
        report.print()
    return report.exit_code


async def _resolved(settings: "Settings", timeout: float) -> "Resolved":
    from discovery.consuming.resolving import resolve
    from discovery.daemon.once import current_snapshot
    from discovery.hosting import loading as plugins

    registry = plugins.open_registry(settings.registry)
    try:
        with progress(f"{settings.registry}, for up to {timeout:g} s"):
            snapshot = await current_snapshot(registry, timeout)
    finally:
        await close_registry(registry)
    for rejected in snapshot.rejected:
        note(f"{rejected.key}: {rejected.reason}")
    resolved, unresolved = await resolve(snapshot, timeout)
    for (service, id_), problem in unresolved.items():
        note(f"{service}/{id_}: {problem}")
    return resolved
