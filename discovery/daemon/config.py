"""Configuration: TOML and overrides to frozen, typed settings, and errors that name the key and the place."""

import copy
import types
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from discovery.admin.access import AccessSettings
from discovery.daemon.assignments import assign
from discovery.daemon.commandline import add_plugin
from discovery.daemon.configfile import read_file
from discovery.daemon.faults import Faults, dotted, validate
from discovery.daemon.settings import (
    INSTANCES,
    OFF,
    VARIABLES,
    ConsumerSettings,
    FileSettings,
    Overrides,
    ProviderSettings,
    Settings,
)
from discovery.errors import ConfigError, PluginError
from discovery.fleet.settings import FleetSettings
from discovery.fleet.trust import TrustSettings
from discovery.hosting import loading as plugins
from discovery.hosting.tables import (
    DEFAULT_REGISTRY,
    YIELDS,
    ConsumerTable,
    Filter,
    InstanceTable,
    ProviderTable,
    RegistrySettings,
    option_names,
)
from discovery.model import split_host_port
from discovery.plugin import PluginConfig
from discovery.registry import BUILT_IN, RegistryURL
from discovery.registry.url import PASSWORD_VARIABLE

_LONGEST_NAME = 200  # it names a directory, which may have 255 bytes

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", bound="InstanceTable")


def load_settings(
    path: Path | None,
    overrides: Overrides = Overrides(),  # noqa: B008 - frozen
    *,
    leave_out: Collection[str] = (),
    instances: Mapping[str, Any] | None = None,
    faults: Faults | None = None,
) -> Settings:
    """Read the file, if any, without the keys to `leave_out`, and lay the overrides over its tables.

    As `parse_settings`.
    """
    place = str(path) if path is not None else "command line"
    if path is not None and (overrides.assignments or overrides.admin is not None):
        place += " and command line"
    tables = read_file(path) if path is not None else {}
    kept = {key: tables[key] for key in tables if key not in leave_out}
    return parse_settings(kept, overrides, place, instances=instances, faults=faults)


def parse_settings(
    tables: Mapping[str, Any],
    overrides: Overrides,
    place: str = "command line",
    *,
    instances: Mapping[str, Any] | None = None,
    faults: Faults | None = None,
) -> Settings:
    """`tables`, as a configuration file has them, under the overrides.

    `instances`, if given, are the tables `consumers` and `providers` in place of those, from the command line. Raises
    ConfigError naming `place`, with a line for each fault. With `faults` these are gathered there instead, and what is
    wrong is left out of the result.
    """
    found = Faults() if faults is None else faults
    raw: dict[str, Any] = copy.deepcopy({**tables, **(instances or {})})
    overridden = _overridden(raw, overrides)
    by_kind = _instance_tables(raw, place, found)
    for plugin in overrides.plugins:
        with found.gathered():
            add_plugin(by_kind, plugin)
    for assignment in overrides.assignments:
        with found.gathered():
            assign(by_kind, assignment)
    _override(raw, overrides)
    their_place = place if instances is None else "command line"
    sound = {}
    options = _take_registry_options(raw)
    for key, value in raw.items():
        with found.gathered():
            validate(FileSettings, {key: value}, place)
            sound[key] = value
    parsed = FileSettings.model_validate(sound)
    registry, registry_is_known = RegistryURL.parse(DEFAULT_REGISTRY), False
    with found.gathered():
        registry = _registry_url(parsed.registry)
        with suppress(PluginError):  # to open the registry reports the fault
            if (model := plugins.registry_config(registry.scheme)) is not None:
                beside = RegistrySettings.model_fields.keys()
                registry = replace(registry, settings=validate(model, options, place, ("registry",), beside))
        # An unknown key may be a misspelt `registry`.
        registry_is_known = not (raw.keys() - sound.keys()) & {"registry", *(raw.keys() - FileSettings.model_fields)}
        bare = registry.without_password()
        if overrides.password and overrides.registry is None and registry.username and bare != registry:
            registry, overridden["the registry's password"] = bare, PASSWORD_VARIABLE
    consumers: dict[str, ConsumerSettings] = {}
    providers: dict[str, ProviderSettings] = {}
    for name, table in parsed.consumers.items():
        with found.gathered():
            consumers[name] = _consumer(name, table, their_place, found)
    for name, table in parsed.providers.items():
        with found.gathered():
            providers[name] = _provider(name, table, their_place, found)
    if faults is None:
        found.raise_if_any()
    return Settings(
        registry=registry,
        admin=None if parsed.admin == OFF else split_host_port(parsed.admin),
        admin_is_default="admin" not in raw,
        log=parsed.log,
        run_dir=parsed.run_dir,
        state_dir=parsed.state_dir,
        consumers=consumers,
        providers=providers,
        overridden=overridden,
        admin_hosts=parsed.admin_hosts,
        fleet=FleetSettings(
            parsed.announce,
            parsed.announce_address,
            parsed.fleet_prefix,
            tuple(parsed.fleet_networks),
            TrustSettings(parsed.fleet_ca or parsed.admin_client_ca, parsed.admin_cert, parsed.admin_key),
        ),
        admin_access=AccessSettings(
            parsed.admin_token_file, parsed.admin_metrics, parsed.admin_cert, parsed.admin_key, parsed.admin_client_ca
        ),
        registry_is_known=registry_is_known,
    )


def validate_options(settings: ConsumerSettings | ProviderSettings, model: type[M]) -> M:
    """An instance's options as its plugin's configuration. Raises ConfigError."""
    core = ConsumerTable if isinstance(settings, ConsumerSettings) else ProviderTable
    at = (settings.table, settings.name)
    ours = core.model_fields.keys() - option_names(model)
    options = {key: value for key, value in settings.options.items() if key not in ours}
    return validate(model, options, settings.place, at, ours)


def validate_filter(settings: ConsumerSettings, model: type[PluginConfig]) -> Filter | None:
    """The filter of a consumer; None without one, and if `filter` is an option of its plugin. Raises ConfigError."""
    if "filter" not in settings.options or "filter" in option_names(model):
        return None
    table = {"plugin": settings.plugin, "filter": settings.options["filter"]}
    return validate(ConsumerTable, table, settings.place, (settings.table, settings.name)).filter


def _overridden(raw: Mapping[str, Any], overrides: Overrides) -> dict[str, str]:
    """The keys of the file in whose place a variable of the environment is used, each with that variable."""
    log, registry = raw.get("log"), raw.get("registry")
    values = dict(raw)
    values |= {f"log.{key}": value for key, value in log.items()} if isinstance(log, dict) else {}
    values |= {"registry": registry.get("url")} if isinstance(registry, dict) else {}
    named = {VARIABLES[field][1]: (field, variable) for field, variable in overrides.variables.items()}
    return {
        key: variable
        for key, (field, variable) in named.items()
        if key in values and str(values[key]) != str(getattr(overrides, field))
    }


def _override(raw: dict[str, Any], overrides: Overrides) -> None:
    """Lay the overrides of everything but the instances over `raw`."""
    if overrides.registry is not None:
        raw["registry"] = {"url": overrides.registry}
    for name in ("admin", "admin_token_file", "run_dir", "state_dir"):
        if (value := getattr(overrides, name)) is not None:
            raw[name] = value
    for name, value in (("level", overrides.log_level), ("format", overrides.log_format)):
        if value is not None:
            log = raw.setdefault("log", {})
            if isinstance(log, dict):  # else it is a fault, reported by the caller
                log[name] = value


def _take_registry_options(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Take the keys that a plugin reads out of the table `registry` of `raw`: none unless a plugin has the scheme."""
    table = raw.get("registry")
    scheme = str(table.get("url", "")).partition("://")[0].strip().lower() if isinstance(table, dict) else ""
    if not isinstance(table, dict) or not scheme or scheme in BUILT_IN or scheme not in plugins.installed():
        return {}
    return {key: table.pop(key) for key in table.keys() - RegistrySettings.model_fields.keys()}


def _instance_tables(raw: dict[str, Any], place: str, faults: Faults) -> dict[str, dict[str, Any]]:
    """The tables `consumers` and `providers` of `raw`, made if missing, in which no name may be twice."""
    for name in INSTANCES:
        with faults.gathered():
            if not isinstance(raw.setdefault(name, {}), dict):
                raw[name] = {}
                raise ConfigError(f"{place}: {name}: must be a table")
    for name in sorted(raw["consumers"].keys() & raw["providers"].keys()):
        with faults.gathered():
            raise ConfigError(
                f"{place}: {dotted(('providers', name))}: there is a consumer of that name;"
                " choose another, since an instance's name stands for one consumer or provider"
            )
    return {name: raw[name] for name in INSTANCES}


def _consumer(name: str, raw: Mapping[str, Any], place: str, faults: Faults) -> ConsumerSettings:
    core, options = _split_table(ConsumerTable, raw, place, ("consumers", name), faults)
    return ConsumerSettings(name, core.plugin, core.quiet_period, options, place)


def _provider(name: str, raw: Mapping[str, Any], place: str, faults: Faults) -> ProviderSettings:
    core, options = _split_table(ProviderTable, raw, place, ("providers", name), faults)
    return ProviderSettings(name, core.plugin, core.ttl, core.owner, options, place, core.force, core.takeover)


def _split_table(
    model: type[T], raw: Mapping[str, Any], place: str, at: tuple[str, str], faults: Faults
) -> tuple[T, dict[str, Any]]:
    """Return the core's part of an instance's table, and the plugin's part.

    A fault in a key of the core is gathered in `faults`, and the key keeps its default: so the plugin's options are
    validated in the same run. Raises ConfigError if the plugin or the instance's name is at fault.
    """
    if not at[1].replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{place}: {dotted(at)}: an instance's name is letters, digits, '-' and '_'")
    if len(at[1].encode()) > _LONGEST_NAME:
        raise ConfigError(f"{place}: {at[0]}.{at[1][:20]}...: an instance's name has at most {_LONGEST_NAME} bytes")
    sound = {"plugin": raw["plugin"]} if "plugin" in raw else {}
    core = validate(model, sound, place, at)
    keys = model.model_fields.keys() - set(YIELDS)
    for key in model.model_fields:
        if key in raw and key in keys:
            with faults.gathered():
                core = validate(model, {**sound, key: raw[key]}, place, at)
                sound[key] = raw[key]
    return core, {key: value for key, value in raw.items() if key not in keys}


def _registry_url(settings: RegistrySettings) -> RegistryURL:
    url = RegistryURL.parse(settings.url)
    extra = {key: str(value) for key, value in settings.model_dump(exclude={"url", "username"}).items() if value}
    return RegistryURL(
        url.scheme,
        url.endpoints,
        url.path,
        settings.username or url.username,
        url.password,
        types.MappingProxyType({**url.options, **extra}),
    )
