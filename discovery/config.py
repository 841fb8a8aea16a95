"""Configuration: TOML and overrides to frozen, typed settings, and errors that name the key and the place."""

import copy
import datetime as dt
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field

from discovery import plugins
from discovery.codec import validate_owner
from discovery.errors import ConfigError, PluginError, RecordError
from discovery.plugin import PluginConfig
from discovery.registry import RegistryURL
from discovery.validation import dotted, validate

DEFAULT_REGISTRY = "etcd://127.0.0.1:2379"
DEFAULT_ADMIN = "127.0.0.1:9901"

M = TypeVar("M", bound=BaseModel)


def _owner(text: str) -> str:
    try:
        return validate_owner(text)
    except RecordError as error:
        raise ValueError(str(error)) from None


class RegistrySettings(PluginConfig):
    """The `[registry]` table. All but `url` can stand in the URL as well."""

    url: str = Field(
        DEFAULT_REGISTRY, description="etcd://HOST:PORT[,...][/PREFIX], etcds:// for TLS, file:///DIRECTORY"
    )
    username: str | None = Field(None, description="User name, if the registry asks for one")
    password_file: Path | None = Field(None, description="File that holds the password")
    ca: Path | None = Field(None, description="Certificate authority that signed the registry's certificate")
    cert: Path | None = Field(None, description="Our certificate, for mutual TLS")
    key: Path | None = Field(None, description="Our certificate's key")
    server_name: str | None = Field(None, description="Name to expect in the certificates, if it is another one")


class LogSettings(PluginConfig):
    """The `[log]` table."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class InstanceTable(PluginConfig):
    """What the core reads of every instance's table; the rest is the plugin's."""

    plugin: str = Field(description="Name of the plugin, as `discovery plugins` lists it")


class ConsumerTable(InstanceTable):
    """The core's part of a `[consumers.NAME]` table."""

    quiet_period: Annotated[float, Field(ge=0, le=60)] = Field(
        0.0, description="Seconds to wait after a change, so that those which follow closely are applied with it"
    )


class ProviderTable(InstanceTable):
    """The core's part of a `[providers.NAME]` table."""

    ttl: Annotated[float, Field(ge=1, le=3600)] = Field(
        10.0, description="Seconds that what is registered outlives a machine that died"
    )
    owner: Annotated[str, AfterValidator(_owner)] | None = Field(
        None, description="Who registers; by default this machine and the instance. No two that live may share it"
    )
    force: bool = Field(False, description="Take each key over, once, from another live owner")


class FileSettings(PluginConfig):
    """The configuration file's top level."""

    registry: RegistrySettings = RegistrySettings()
    admin: str = Field(DEFAULT_ADMIN, description='Where the admin endpoint listens, HOST:PORT, or "off"')
    log: LogSettings = LogSettings()
    run_dir: Path | None = Field(None, description="Directory for sockets, locks and generated files")
    state_dir: Path | None = Field(None, description="Directory for the last good snapshot")
    consumers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Plugins that follow the registry")
    providers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Plugins that register what runs on this machine"
    )


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """One consumer as asked for; `options` are for its plugin to validate, with `validate_options`."""

    table: ClassVar[str] = "consumers"
    name: str
    plugin: str
    quiet_period: float
    options: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider as asked for; `options` are for its plugin to validate, `owner` is None for the default."""

    table: ClassVar[str] = "providers"
    name: str
    plugin: str
    ttl: float
    owner: str | None
    options: Mapping[str, Any]
    place: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `discovery run` needs to know. `admin` is (host, port), or None for off."""

    registry: RegistryURL
    admin: tuple[str, int] | None
    admin_is_default: bool
    log: LogSettings
    run_dir: Path | None
    state_dir: Path | None
    consumers: Mapping[str, ConsumerSettings]
    providers: Mapping[str, ProviderSettings]


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; it wins over the file."""

    registry: str | None = None
    plugins: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    admin: str | None = None
    run_dir: Path | None = None
    state_dir: Path | None = None
    log_level: str | None = None
    log_format: str | None = None


def load_settings(path: Path | None, overrides: Overrides = Overrides()) -> Settings:
    """Read the file, if any, and lay the overrides over it. Raises ConfigError."""
    place = str(path) if path is not None else "command line"
    if path is not None and (overrides.assignments or overrides.admin is not None):
        place += " and command line"
    return parse_settings(_read(path) if path is not None else {}, overrides, place)


def parse_settings(tables: Mapping[str, Any], overrides: Overrides, place: str = "command line") -> Settings:
    """`tables`, as a configuration file has them, under the overrides. Raises ConfigError naming `place`."""
    raw: dict[str, Any] = copy.deepcopy(dict(tables))
    instances = _instance_tables(raw, place)
    for plugin in overrides.plugins:
        _add(instances, plugin)
    for assignment in overrides.assignments:
        _assign(instances, assignment)
    if overrides.registry is not None:
        raw["registry"] = {"url": overrides.registry}
    for name in ("admin", "run_dir", "state_dir"):
        if (value := getattr(overrides, name)) is not None:
            raw[name] = value
    for name, value in (("level", overrides.log_level), ("format", overrides.log_format)):
        if value is not None:
            log = raw.setdefault("log", {})
            if isinstance(log, dict):  # else it is a fault, told below
                log[name] = value
    parsed = validate(FileSettings, raw, place)
    return Settings(
        registry=_registry_url(parsed.registry),
        admin=_admin(parsed.admin, place),
        admin_is_default="admin" not in raw,
        log=parsed.log,
        run_dir=parsed.run_dir,
        state_dir=parsed.state_dir,
        consumers={name: _consumer(name, table, place) for name, table in parsed.consumers.items()},
        providers={name: _provider(name, table, place) for name, table in parsed.providers.items()},
    )


def validate_options(settings: ConsumerSettings | ProviderSettings, model: type[M]) -> M:
    """An instance's options as its plugin's configuration. Raises ConfigError."""
    core = ConsumerTable if isinstance(settings, ConsumerSettings) else ProviderTable
    at = (settings.table, settings.name)
    return validate(model, dict(settings.options), settings.place, at, core.model_fields.keys())


def json_schema(
    consumers: Mapping[str, type[PluginConfig]],
    providers: Mapping[str, type[PluginConfig]] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON schema of the whole configuration file, given the plugins' own configuration types by plugin name."""
    schema = FileSettings.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    kinds = (("consumers", ConsumerTable, consumers), ("providers", ProviderTable, providers))
    for table, core, configs in kinds:
        variants = []
        for name, config in sorted(configs.items()):
            prefix = f"{table}.{name}"
            options = config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
            definitions |= {f"{prefix}.{key}": value for key, value in options.pop("$defs", {}).items()}
            ours = core.model_json_schema()["properties"]
            options["properties"] = ours | {"plugin": {"const": name}} | options.get("properties", {})
            options["required"] = ["plugin", *options.get("required", ())]
            variants.append(options)
        schema["properties"][table]["additionalProperties"] = {"oneOf": variants} if variants else True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def _instance_tables(raw: dict[str, Any], place: str) -> dict[str, dict[str, Any]]:
    """The tables `consumers` and `providers` of `raw`, made if missing, in which no name may be twice."""
    tables = {name: raw.setdefault(name, {}) for name in ("consumers", "providers")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{place}: {name}: must be a table")
    for name in tables["consumers"].keys() & tables["providers"].keys():
        raise ConfigError(
            f"{place}: {dotted(('providers', name))}: there is a consumer of that name;"
            " choose another, since an instance's name stands for one consumer or provider"
        )
    return tables


def _add(instances: dict[str, dict[str, Any]], plugin: str) -> None:
    """Add the instance that `--plugin` asks for, in the role that the plugin has, unless there is one of that name."""
    if any(plugin in table for table in instances.values()):
        return
    try:
        roles = plugins.roles(plugin)
    except (ConfigError, PluginError):
        roles = ()  # told by whoever builds it, beside what else there is to run
    if len(roles) > 1:
        raise ConfigError(
            f"--plugin {plugin}: this plugin is a consumer and a provider, which cannot share an instance's name;"
            " configure what you want in a file, as [consumers.NAME] or [providers.NAME]"
        )
    table = "providers" if roles == ("provider",) else "consumers"
    instances[table][plugin] = {"plugin": plugin}


def _assign(instances: dict[str, dict[str, Any]], assignment: str) -> None:
    """Lay one `--set INSTANCE.KEY[.KEY...]=VALUE` over the tables."""
    instance, *path, last, value = _split_assignment(assignment)
    kind = next((kind for kind, tables in instances.items() if instance in tables), None)
    if kind is None:
        known = ", ".join(name for tables in instances.values() for name in tables) or "none; add it with --plugin"
        raise ConfigError(f"--set {assignment}: there is no instance {instance!r}; there are: {known}")
    table = instances[kind][instance]
    if not isinstance(table, dict):
        raise ConfigError(f"--set {assignment}: {kind}.{instance} is no table")
    for key in path:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {assignment}: {key} is no table")
    table[last] = value


def _split_assignment(assignment: str) -> tuple[Any, ...]:
    # A quoted key may hold a "=", so the key ends at the first "=" before which TOML sees a whole key.
    for place, character in enumerate(assignment):
        if character != "=" or "\n" in assignment[:place]:
            continue
        try:
            tree = tomllib.loads(f"{assignment[:place]} = 0")
        except tomllib.TOMLDecodeError:
            continue
        keys = []
        node: Any = tree
        while isinstance(node, dict):
            key, node = next(iter(node.items()))
            keys.append(key)
        if len(keys) > 1:
            return (*keys, _value(assignment[place + 1 :]))
        break
    raise ConfigError(
        f"--set {assignment}: write INSTANCE.KEY[.KEY...]=VALUE, for example haproxy.services.web.bind=:80"
    )


def _value(text: str) -> Any:
    """TOML if it is one value, else the text itself."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = tree["value"]
    return text if len(tree) > 1 or isinstance(value, dt.date | dt.time) else value


def _consumer(name: str, raw: Mapping[str, Any], place: str) -> ConsumerSettings:
    core, options = _split_table(ConsumerTable, raw, place, ("consumers", name))
    return ConsumerSettings(name, core.plugin, core.quiet_period, options, place)


def _provider(name: str, raw: Mapping[str, Any], place: str) -> ProviderSettings:
    core, options = _split_table(ProviderTable, raw, place, ("providers", name))
    return ProviderSettings(name, core.plugin, core.ttl, core.owner, options, place, core.force)


def _split_table(model: type[M], raw: Mapping[str, Any], place: str, at: tuple[str, str]) -> tuple[M, dict[str, Any]]:
    """The core's part of an instance's table, and the plugin's."""
    if not at[1].replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{place}: {dotted(at)}: an instance's name is letters, digits, '-' and '_'")
    core = {key: raw[key] for key in model.model_fields if key in raw}
    return validate(model, core, place, at), {key: value for key, value in raw.items() if key not in core}


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


def _admin(text: str, place: str) -> tuple[str, int] | None:
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigError(f'{place}: admin: {text!r} is neither HOST:PORT nor "off"')
    return host.strip("[]") or "127.0.0.1", int(port)
