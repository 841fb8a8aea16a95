"""`discovery run`: runs consumers, which follow the registry, and providers, which register backends."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import note, progress, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import (
    ConfigOption,
    RegistryOption,
    RunDirOption,
    TimeoutOption,
    close_registry,
    overrides,
    start_logging,
)
from discovery.daemon.configfile import file_in_use
from discovery.errors import ConfigError

if TYPE_CHECKING:
    from discovery.consuming.resolving import Resolved
    from discovery.daemon.config import Settings
    from discovery.daemon.faults import Faults
    from discovery.daemon.instances import Instances
    from discovery.daemon.once import Survey
    from discovery.hosting.directories import Directories


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
    if replace and (once or dry_run):
        raise ConfigError(f"--replace and {'--once' if once else '--dry-run'} exclude each other")

    given = overrides(
        registry=registry,
        admin=admin,
        run_dir=run_dir,
        state_dir=state_dir,
        plugins=plugin or (),
        assignments=set_ or (),
    )
    path = file_in_use(config)
    leave_out = _OF_ANOTHER_DAEMON if plugin and config is None else ()
    if dry_run:
        settings, instances, faults = examine(path, given, leave_out=leave_out)
        if faults:
            return run_coroutine(_tell_faults(settings, instances, faults, timeout))
        loaded = settings, instances
    else:
        loaded = load(path, given, leave_out=leave_out)
    start_logging(loaded[0])
    if once or dry_run:
        return run_coroutine(_single_pass(*loaded, timeout, once=once))
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


async def _tell_faults(settings: "Settings", instances: "Instances", faults: "Faults", timeout: float) -> int:
    """Print the faults that `config check` reports, for a configuration without a preview. Return the exit code."""
    from discovery.cli.config import validate
    from discovery.system.logs import configure_logging

    configure_logging("error", settings.log.format)
    validated = await validate(settings, instances, faults, timeout)
    for line in validated.unchecked:
        note(f"unchecked: {line}")
    for line in validated.faults:
        note(line)
    return 2


async def _single_pass(settings: "Settings", instances: "Instances", timeout: float, *, once: bool) -> int:
    import structlog

    from discovery.daemon.once import apply_once, check_once
    from discovery.hosting.directories import Directories
    from discovery.system.rundir import base_run_dir, run_dir_path
    from discovery.system.statedir import state_dir

    log = structlog.get_logger()
    run_dir = base_run_dir(settings.run_dir) if once else run_dir_path(settings.run_dir)
    directories = Directories(run_dir, state_dir(settings.state_dir))
    if once:
        check_once(instances, directories, log)
        resolved = await _resolved(settings, timeout)
        failures = await apply_once(instances.consumers.values(), resolved, directories, log)
        faults: tuple[str, ...] = ()
    else:
        failures, faults = await _dry_run(settings, instances, directories, timeout)
    failures |= instances.broken
    for name, reason in failures.items():
        note(f"{name}: {reason}")
    for fault in faults:
        note(fault)
    return 2 if faults else 1 if failures else 0


async def _dry_run(
    settings: "Settings", instances: "Instances", directories: "Directories", timeout: float
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Print what the instances would do. Return the reason of each failed preview by instance, and plugins' faults."""
    import structlog

    from discovery.daemon.once import first_update, preview, survey
    from discovery.daemon.validation import NOTHING, validate_instances
    from discovery.system.logs import configure_logging

    log = structlog.get_logger()
    failures = {}
    updates = [NOTHING]
    if instances.consumers:
        resolved = await _resolved(settings, timeout)
        for name, previewed in (await preview(instances.consumers.values(), resolved, directories, log)).items():
            if isinstance(previewed, str):
                result(previewed.rstrip("\n") if previewed else f"# {name}: nothing would change")
            else:
                failures[name] = str(previewed)
        updates.append(first_update(resolved))
    validated = await validate_instances(instances, updates, directories, log)
    for line in validated.unchecked:
        note(f"unchecked: {line}")
    configure_logging("error", settings.log.format)  # the results of checks are printed below
    for name, surveyed in (await survey(instances.providers.values(), directories, log, timeout)).items():
        if isinstance(surveyed, Exception):
            failures[name] = str(surveyed)
        else:
            _print_survey(name, surveyed)
    # The reason of a failed preview is often among the faults, too, and is reported once.
    known = {name for name, reason in failures.items() if any(reason in fault for fault in validated.faults)}
    return {name: failures[name] for name in failures if name not in known}, validated.faults


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


def _print_survey(name: str, surveyed: "Survey") -> None:
    """Print a line for each candidate, problem and skipped item of a provider.

    A line begins with `+` for a candidate that would be registered, `-` for any other candidate, `!` for a problem, and
    `~` for a skipped item.
    """
    from discovery.cli.records import backend_line
    from discovery.system.terminal import printable

    count = sum(candidate.registered for candidate in surveyed.candidates.values())
    result(f"# {name}: {count} of {len(surveyed.candidates)} found would be registered")
    for candidate in surveyed.candidates.values():
        detail = f": {candidate.detail}" if candidate.detail else ""
        result(printable(f"{'+' if candidate.registered else '-'} {backend_line(candidate.backend)}{detail}"))
    for what, reason in surveyed.problems.items():
        result(printable(f"! {what}: {reason}"))
    for what, rule in surveyed.skipped.items():
        result(printable(f"~ {what}: {rule}"))
