"""From settings to consumers and providers that can be run: plugins loaded, their options validated by their types."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from discovery.admin.access import check_exposure
from discovery.consuming.runner import ConsumerInstance
from discovery.daemon.config import load_settings, validate_filter, validate_options
from discovery.daemon.faults import Faults
from discovery.daemon.settings import ConsumerSettings, Overrides, ProviderSettings, Settings
from discovery.errors import ConfigError, PluginError, describe
from discovery.fleet.place import fleet_url
from discovery.hosting import loading as plugins
from discovery.plugin import PluginConfig

if TYPE_CHECKING:
    from discovery.providing.runner import ProviderInstance


class Instances(NamedTuple):
    """Consumers and providers by instance name, and what is wrong with those whose plugin is broken."""

    consumers: dict[str, ConsumerInstance]
    providers: dict[str, "ProviderInstance"]
    broken: dict[str, str]

    @property
    def usable(self) -> tuple[str, ...]:
        """The names of those that can be run."""
        return (*self.consumers, *self.providers)


def load(
    path: Path | None,
    overrides: Overrides,
    *,
    leave_out: Collection[str] = (),
    instances: Mapping[str, Any] | None = None,
) -> tuple[Settings, Instances]:
    """Read the settings as `load_settings` does, and build the instances.

    Raises ConfigError with a line for each fault: of the file, of the options of every instance, of the registry.
    """
    settings, built, faults = examine(path, overrides, leave_out=leave_out, instances=instances)
    if faults:
        with suppress(PluginError), faults.gathered():
            plugins.check_registry(settings.registry)
    faults.raise_if_any()
    return settings, built


def examine(
    path: Path | None,
    overrides: Overrides,
    *,
    leave_out: Collection[str] = (),
    instances: Mapping[str, Any] | None = None,
) -> tuple[Settings, Instances, Faults]:
    """As `load`, but return the faults beside what is right. Raises ConfigError only if the file cannot be read."""
    faults = Faults()
    settings = load_settings(path, overrides, leave_out=leave_out, instances=instances, faults=faults)
    if settings.fleet.announce and settings.admin is not None and settings.registry_is_known:
        with faults.gathered():
            fleet_url(settings.registry, settings.fleet.prefix)
    if settings.admin is not None and settings.fleet.trust.ca != settings.admin_access.client_ca:
        with faults.gathered():
            settings.fleet.trust.context()
    with faults.gathered():
        _check_admin(settings, path)
    return settings, build(settings, faults, path), faults


def build(settings: Settings, faults: Faults | None = None, path: Path | None = None) -> Instances:
    """Load and validate what `settings` asks for.

    A broken plugin takes down itself alone. Raises ConfigError, with a line for each fault, for unknown plugins, bad
    options or nothing to run; with `faults` these are gathered there instead. `path` is the file that they name.
    """
    found = Faults() if faults is None else faults
    consumers: dict[str, ConsumerInstance] = {}
    providers: dict[str, ProviderInstance] = {}
    broken: dict[str, str] = {}
    for consumer in settings.consumers.values():
        try:
            with found.gathered():
                consumers[consumer.name] = _consumer(consumer)
        except PluginError as error:
            broken[consumer.name] = str(error)
    for provider in settings.providers.values():
        try:
            with found.gathered():
                providers[provider.name] = _provider(provider)
        except PluginError as error:
            broken[provider.name] = str(error)
    if not settings.consumers and not settings.providers and not found:
        with found.gathered():
            if path is not None:
                way_out = "it has no [consumers.NAME] and no [providers.NAME]; add one, or name a plugin with --plugin"
                raise ConfigError(f"{path}: there is nothing to run: {way_out}")
            raise ConfigError("there is nothing to run: name a plugin with --plugin, or a configuration with --config")
    if faults is None:
        found.raise_if_any()
    return Instances(consumers, providers, broken)


def _check_admin(settings: Settings, path: Path | None) -> None:
    """Raise ConfigError if the admin endpoint would tell everything to other machines, or its files cannot be used."""
    if settings.admin is None:
        return
    try:
        settings.admin_access.read()
        check_exposure(settings.admin[:1], settings.admin_access)
    except ConfigError as error:
        raise ConfigError(f"{path or 'command line'}: {error}") from None


def _consumer(settings: ConsumerSettings) -> ConsumerInstance:
    made_of = plugins.consumer_class(settings.plugin)
    options = _options(settings, made_of.Config)
    wanted = validate_filter(settings, made_of.Config)
    return ConsumerInstance(settings.name, settings.plugin, made_of, options, settings.quiet_period, wanted)


def _provider(settings: ProviderSettings) -> "ProviderInstance":
    from discovery.providing.runner import ProviderInstance  # here: it imports the checks and their probes

    made_of = plugins.provider_class(settings.plugin)
    options = _options(settings, made_of.Config)
    owner = settings.owner or ""  # for the default, which depends on the run directory
    return ProviderInstance(
        settings.name, settings.plugin, made_of, options, settings.ttl, owner, settings.force, settings.takeover
    )


def _options(settings: ConsumerSettings | ProviderSettings, model: type[PluginConfig]) -> PluginConfig:
    """Return the options of an instance. Raises ConfigError, or PluginError if a validator of the plugin fails."""
    try:
        return validate_options(settings, model)
    except ConfigError:
        raise
    except Exception as error:
        raise PluginError(f"the plugin {settings.plugin!r} cannot validate its options: {describe(error)}") from error
