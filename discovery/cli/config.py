"""`discovery config`: checks a configuration file, or prints the JSON schema of the file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import note, progress, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import JsonOption, RunDirOption, close_registry, parsed_option
from discovery.daemon.configfile import file_in_use
from discovery.errors import ConfigError, PluginError, RegistryUnavailableError
from discovery.fields import Duration

if TYPE_CHECKING:
    from discovery.daemon.faults import Faults
    from discovery.daemon.instances import Instances
    from discovery.daemon.settings import Settings
    from discovery.plugin import Update, Validation

app = typer.Typer(help="Check a configuration file, or print its schema.")


@app.command("check")
def check(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            readable=False,
            help="The configuration to check. Default: the configuration file in use.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", readable=False, help="The same as FILE.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not read the registry.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything could not be checked.")] = False,
    timeout: Annotated[
        float, parsed_option(Duration(zero="do not wait"), "How long to wait for the registry's records.")
    ] = 3.0,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print the JSON schema of the configuration instead.")
    ] = False,
) -> int:
    """Check a configuration file as the daemon would, without changing anything.

    Prints every fault: of the file, of plugins' options, and of the configuration that a plugin generates (HAProxy
    checks its configuration without records and with the records of the registry). A fault makes the exit code 2. What
    cannot be checked on this machine is listed as unchecked, and the addresses that providers would announce are
    listed.

    \b
    discovery config check
    discovery config check new.toml --offline --strict
    """
    if json_schema:
        _print_schema()
        return 0
    path = file_in_use(config or option)
    if path is None:
        raise ConfigError("name the configuration file to check: discovery config check FILE")
    report = run_coroutine(_examined(path, run_dir, None if offline else timeout))
    if as_json:
        result(json.dumps(report.document, indent=2))
    else:
        _print(report)
    return 2 if report.faults else 1 if strict and report.unchecked else 0


@dataclass(frozen=True, slots=True)
class _Report:
    path: Path
    consumers: Sequence[str] = ()
    providers: Sequence[str] = ()
    faults: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    announces: Sequence[str] = ()

    @property
    def document(self) -> dict[str, object]:
        return {
            "file": str(self.path),
            "valid": not self.faults,
            "consumers": list(self.consumers),
            "providers": list(self.providers),
            "faults": list(self.faults),
            "unchecked": list(self.unchecked),
            "announces": list(self.announces),
        }


async def _examined(path: Path, run_dir: Path | None, timeout: float | None) -> _Report:
    """Return the report for the file. With `timeout` None the registry is not read."""
    from discovery.daemon.instances import examine
    from discovery.daemon.settings import Overrides
    from discovery.system.logs import configure_logging

    configure_logging("error")
    try:
        examined = examine(path, Overrides(run_dir=run_dir))
    except ConfigError as error:
        return _Report(path, faults=str(error).splitlines())
    _, instances, _ = examined
    validated = await validate(*examined, timeout)
    return _Report(
        path,
        list(instances.consumers),
        list(instances.providers),
        validated.faults,
        validated.unchecked,
        validated.announces,
    )


async def validate(
    settings: "Settings", instances: "Instances", faults: "Faults", timeout: float | None
) -> "Validation":
    """Return all faults of the result of `examine`: of the file, of options, and of what plugins generate.

    `timeout` is the time in seconds for reading the registry; with None the registry is not read.
    """
    import structlog

    from discovery.daemon.validation import NOTHING, validate_instances
    from discovery.hosting.directories import Directories
    from discovery.plugin import Validation
    from discovery.system.rundir import run_dir_path
    from discovery.system.statedir import state_dir

    updates: list[Update] = [NOTHING]
    unread: tuple[str, ...] = ()
    broken = [f"{place}: {reason}" for place, reason in _placed(instances.broken, settings)]
    try:
        with faults.gathered():
            current, unread = await _current(settings, instances, timeout)
            updates += current
    except PluginError as error:
        broken.append(f"registry: {error}")
    directories = Directories(run_dir_path(settings.run_dir), state_dir(settings.state_dir))
    validated = await validate_instances(instances, updates, directories, structlog.get_logger())
    return Validation(
        faults=(*faults.lines, *broken, *validated.faults),
        unchecked=(*unread, *validated.unchecked),
        announces=validated.announces,
    )


def _placed(broken: Mapping[str, str], settings: "Settings") -> Iterator[tuple[str, str]]:
    """Yield the table of each instance whose plugin is broken, and the reason."""
    from discovery.daemon.faults import dotted

    for name, reason in broken.items():
        yield dotted(("providers" if name in settings.providers else "consumers", name)), reason


async def _current(
    settings: "Settings", instances: "Instances", timeout: float | None
) -> tuple[list["Update"], tuple[str, ...]]:
    """Return the updates for consumers now, and the reason if unknown. Raises ConfigError or PluginError."""
    from discovery.consuming.resolving import resolve
    from discovery.daemon.once import current_snapshot, first_update
    from discovery.hosting import loading as plugins

    registry = plugins.open_registry(settings.registry)
    try:
        if not settings.registry_is_known:
            return [], ("with the records of the registry: it was not asked, since its configuration is at fault",)
        if not instances.consumers:
            return [], ()
        if timeout is None:
            return [], (f"with the records of {settings.registry}: it was not asked, with --offline",)
        with progress(f"{settings.registry}, for up to {timeout:g} s"):
            resolved, _ = await resolve(await current_snapshot(registry, timeout), timeout)
        return [first_update(resolved)], ()
    except RegistryUnavailableError as error:
        return [], (f"with the records of {settings.registry}: {error}",)
    finally:
        await close_registry(registry)


def _print(report: _Report) -> None:
    if not report.faults:
        roles = {"consumers": report.consumers, "providers": report.providers}
        named = (f"{role}: {', '.join(names)}" for role, names in roles.items() if names)
        result("; ".join((f"{report.path}: valid", *named)))
    for line in report.announces:
        result(f"announces: {line}")
    for line in report.unchecked:
        result(f"unchecked: {line}")
    for line in report.faults:
        note(line)


def _print_schema() -> None:
    from discovery.cli.console import note
    from discovery.daemon.schema import json_schema
    from discovery.errors import PluginError, describe
    from discovery.hosting import loading as plugins

    consumers, providers, registries = {}, {}, {}
    for name in plugins.installed():
        try:
            plugin = plugins.load(name)
            if name in plugin.consumers:
                plugin.consumers[name].Config.model_json_schema()
                consumers[name] = plugin.consumers[name].Config
            if name in plugin.providers:
                plugin.providers[name].Config.model_json_schema()
                providers[name] = plugin.providers[name].Config
            for scheme, kind in plugin.registries.items():
                if kind.config is not None:
                    kind.config.model_json_schema()
                    registries[scheme] = kind.config
        except PluginError as error:
            note(str(error))
        except Exception as error:  # noqa: BLE001 - the types of options may be a plugin's, and have no schema
            note(f"the plugin {name!r} has no JSON schema of its options: {describe(error)}")
    result(json.dumps(json_schema(consumers, providers, registries), indent=2))
