"""From settings to consumers and providers that can be run: plugins loaded, their options validated by their types."""

from dataclasses import dataclass

from discovery import plugins
from discovery.config import ConsumerSettings, ProviderSettings, Settings, validate_options
from discovery.errors import ConfigError, PluginError
from discovery.provider_runner import ProviderInstance
from discovery.registrar import machine_id
from discovery.runner import Instance


@dataclass(frozen=True, slots=True)
class Instances:
    """Consumers and providers by instance name, and what is wrong with those whose plugin is broken."""

    consumers: dict[str, Instance]
    providers: dict[str, ProviderInstance]
    broken: dict[str, str]

    @property
    def usable(self) -> tuple[str, ...]:
        """The names of those that can be run."""
        return (*self.consumers, *self.providers)


def build(settings: Settings) -> Instances:
    """Load and validate what `settings` asks for.

    A broken plugin takes down itself alone. Raises ConfigError for an unknown plugin, bad options or nothing to run.
    """
    if not settings.consumers and not settings.providers:
        raise ConfigError("there is nothing to run: name a plugin with --plugin, or a configuration with --config")
    consumers: dict[str, Instance] = {}
    providers: dict[str, ProviderInstance] = {}
    broken: dict[str, str] = {}
    for consumer in settings.consumers.values():
        try:
            consumers[consumer.name] = _consumer(consumer)
        except PluginError as error:
            broken[consumer.name] = str(error)
    for provider in settings.providers.values():
        try:
            providers[provider.name] = _provider(provider)
        except PluginError as error:
            broken[provider.name] = str(error)
    return Instances(consumers, providers, broken)


def _consumer(settings: ConsumerSettings) -> Instance:
    made_of = plugins.consumer_class(settings.plugin)
    options = validate_options(settings, made_of.Config)
    return Instance(settings.name, settings.plugin, made_of, options, settings.quiet_period)


def _provider(settings: ProviderSettings) -> ProviderInstance:
    made_of = plugins.provider_class(settings.plugin)
    options = validate_options(settings, made_of.Config)
    owner = settings.owner or f"{machine_id()}/{settings.name}"
    return ProviderInstance(settings.name, settings.plugin, made_of, options, settings.ttl, owner, settings.force)
