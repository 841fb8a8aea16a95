"""From settings to consumers that can be run: each plugin loaded, its options validated by its own type."""

from dataclasses import dataclass

from discovery import plugins
from discovery.config import Settings, validate_options
from discovery.errors import ConfigError, PluginError
from discovery.runner import Instance


@dataclass(frozen=True, slots=True)
class Instances:
    """The consumers by instance name, and what is wrong with those whose plugin is broken."""

    usable: dict[str, Instance]
    broken: dict[str, str]


def build(settings: Settings) -> Instances:
    """Load and validate what `settings` asks for.

    A broken plugin takes down itself alone. Raises ConfigError for an unknown plugin, bad options or nothing to run.
    """
    if not settings.consumers:
        raise ConfigError("there is nothing to run: name a plugin with --plugin, or a configuration with --config")
    usable: dict[str, Instance] = {}
    broken: dict[str, str] = {}
    for name, consumer in settings.consumers.items():
        try:
            made_of = plugins.consumer_class(consumer.plugin)
        except PluginError as error:
            broken[name] = str(error)
            continue
        options = validate_options(consumer, made_of.Config)
        usable[name] = Instance(name, consumer.plugin, made_of, options, consumer.quiet_period)
    return Instances(usable, broken)
