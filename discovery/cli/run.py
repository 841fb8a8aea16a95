"""`discovery run`: plugins that follow the registry."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import note, result
from discovery.cli.options import RunDirOption, TimeoutOption
from discovery.errors import ConfigError

if TYPE_CHECKING:
    from discovery.config import Settings


def _plugin_names() -> list[str]:
    from discovery.plugins import installed

    return list(installed())


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", readable=False, envvar="DISCOVERY_CONFIG", help="Configuration, TOML."
    ),
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        "-p",
        metavar="NAME",
        help="Run this plugin, as an instance of the same name. Repeatable.",
        autocompletion=_plugin_names,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="INSTANCE.KEY=VALUE", help="Set one key of an instance, over the configuration. Repeatable."
    ),
]
MaybeRegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        metavar="URL",
        envvar="DISCOVERY_REGISTRY",
        help="Where backends are recorded, in place of the configuration's [registry]. Default: etcd://127.0.0.1:2379.",
    ),
]


def run(
    config: ConfigOption = None,
    registry: MaybeRegistryOption = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
    once: Annotated[bool, typer.Option("--once", help="Apply the current state and end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each consumer would change, as a diff; touch nothing.")
    ] = False,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|off",
            envvar="DISCOVERY_ADMIN",
            help="Health, metrics and state. Default: 127.0.0.1:9901.",
        ),
    ] = None,
    run_dir: RunDirOption = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", readable=False, envvar="DISCOVERY_STATE_DIR", help="Where the last good snapshot is kept."
        ),
    ] = None,
    timeout: TimeoutOption = 10.0,
) -> int:
    """Follow the registry with one or more plugins, until stopped.

    SIGHUP, or a change of the configuration file, reads it again and restarts only what changed.

    \b
    discovery run --plugin haproxy
    discovery run --plugin haproxy --set haproxy.services.web.bind=0.0.0.0:80
    discovery run --config /etc/discovery.toml
    """
    from discovery.config import Overrides, load_settings

    overrides = Overrides(
        registry=registry,
        plugins=tuple(plugin or ()),
        assignments=tuple(set_ or ()),
        admin=admin,
        run_dir=run_dir,
        state_dir=state_dir,
        log_level=os.environ.get("DISCOVERY_LOG_LEVEL") or None,
        log_format=os.environ.get("DISCOVERY_LOG_FORMAT") or None,
    )
    if once and dry_run:
        raise ConfigError("--once and --dry-run exclude each other")

    def load() -> "Settings":
        return load_settings(config, overrides)

    settings = load()
    _start_logging(settings)
    if once or dry_run:
        return asyncio.run(_single_pass(settings, timeout, once=once))
    return asyncio.run(_daemon(load, config))


def _start_logging(settings: "Settings") -> None:
    from discovery.logs import configure_logging

    configure_logging(settings.log.level, settings.log.format)


async def _daemon(load: Callable[[], "Settings"], config: Path | None) -> int:
    import structlog

    from discovery.daemon import Daemon

    return await Daemon(load, config, structlog.get_logger()).run()


async def _single_pass(settings: "Settings", timeout: float, *, once: bool) -> int:
    import structlog

    from discovery import plugins
    from discovery.instances import build
    from discovery.once import apply_once, check_once, current_snapshot, preview
    from discovery.rundir import base_run_dir, run_dir_path

    log = structlog.get_logger()
    instances = build(settings)
    failures = dict(instances.broken)
    run_dir = base_run_dir(settings.run_dir) if once else run_dir_path(settings.run_dir)
    if once:
        check_once(instances.usable.values(), run_dir, log)
    registry = plugins.open_registry(settings.registry)
    try:
        snapshot = await current_snapshot(registry, timeout)
    finally:
        await registry.close()
    for rejected in snapshot.rejected:
        note(f"{rejected.key}: {rejected.reason}")
    if once:
        failures |= await apply_once(instances.usable.values(), snapshot, run_dir, log)
    else:
        for name, previewed in (await preview(instances.usable.values(), snapshot, run_dir, log)).items():
            if isinstance(previewed, str):
                result(previewed.rstrip("\n") if previewed else f"# {name}: nothing would change")
            else:
                failures[name] = str(previewed)
    for name, reason in failures.items():
        note(f"{name}: {reason}")
    return 1 if failures else 0
