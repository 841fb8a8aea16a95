"""Configuration: TOML and overrides to frozen, typed settings, and errors that name the key and the place."""

import datetime as dt
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from discovery.errors import ConfigError
from discovery.plugin import PluginConfig
from discovery.registry import RegistryURL

DEFAULT_REGISTRY = "etcd://127.0.0.1:2379"
DEFAULT_ADMIN = "127.0.0.1:9901"

M = TypeVar("M", bound=BaseModel)


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


class InstanceSettings(PluginConfig):
    """What the core reads of a `[consumers.NAME]` table; the rest is the plugin's."""

    plugin: str = Field(description="Name of the plugin, as `discovery plugins` lists it")
    quiet_period: Annotated[float, Field(ge=0, le=60)] = Field(
        0.0, description="Seconds to wait after a change, so that those which follow closely are applied with it"
    )


class FileSettings(PluginConfig):
    """The configuration file's top level."""

    registry: RegistrySettings = RegistrySettings()
    admin: str = Field(DEFAULT_ADMIN, description='Where the admin endpoint listens, HOST:PORT, or "off"')
    log: LogSettings = LogSettings()
    run_dir: Path | None = Field(None, description="Directory for sockets, locks and generated files")
    state_dir: Path | None = Field(None, description="Directory for the last good snapshot")
    consumers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Plugins that follow the registry")


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """One consumer as asked for; `options` are for its plugin to validate, with `validate_options`."""

    name: str
    plugin: str
    quiet_period: float
    options: Mapping[str, Any]
    place: str


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
    raw = _read(path) if path is not None else {}
    consumers = raw.setdefault("consumers", {})
    if not isinstance(consumers, dict):
        raise ConfigError(f"{place}: consumers: must be a table")
    for plugin in overrides.plugins:
        consumers.setdefault(plugin, {"plugin": plugin})
    for assignment in overrides.assignments:
        _assign(consumers, assignment)
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
        consumers={name: _consumer(name, options, place) for name, options in parsed.consumers.items()},
    )


def validate(model: type[M], raw: Any, place: str, at: tuple[str, ...] = ()) -> M:
    """`raw` as `model`. Raises ConfigError, a line for each fault: place, key, what is wrong, what was meant.

    `place` names the file or the command line, `at` the keys that lead to `raw` in it.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_fault(model, fault, place, at) for fault in error.errors(include_url=False, include_context=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def validate_options(settings: ConsumerSettings, model: type[M]) -> M:
    """A consumer's options as its plugin's configuration. Raises ConfigError."""
    return validate(model, dict(settings.options), settings.place, ("consumers", settings.name))


def json_schema(consumers: Mapping[str, type[PluginConfig]]) -> dict[str, Any]:
    """The JSON schema of the whole configuration file, given the plugins' own configuration types by plugin name."""
    schema = FileSettings.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    variants = []
    for name, config in sorted(consumers.items()):
        options = config.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in options.pop("$defs", {}).items()}
        core = InstanceSettings.model_json_schema()
        options["properties"] = core["properties"] | {"plugin": {"const": name}} | options.get("properties", {})
        options["required"] = ["plugin", *options.get("required", ())]
        variants.append(options)
    schema["properties"]["consumers"]["additionalProperties"] = {"oneOf": variants} if variants else True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def _assign(consumers: dict[str, Any], assignment: str) -> None:
    """Lay one `--set INSTANCE.KEY[.KEY...]=VALUE` over the tables."""
    instance, *path, last, value = _split_assignment(assignment)
    table = consumers.get(instance)
    if instance in consumers and not isinstance(table, dict):
        raise ConfigError(f"--set {assignment}: consumers.{instance} is no table")
    if not isinstance(table, dict):
        known = ", ".join(consumers) or "none; add it with --plugin"
        raise ConfigError(f"--set {assignment}: there is no instance {instance!r}; there are: {known}")
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
    core = {key: raw[key] for key in InstanceSettings.model_fields if key in raw}
    options = {key: value for key, value in raw.items() if key not in core}
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{place}: {dotted(('consumers', name))}: an instance's name is letters, digits, '-' and '_'")
    settings = validate(InstanceSettings, core, place, ("consumers", name))
    return ConsumerSettings(name, settings.plugin, settings.quiet_period, options, place)


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


def _fault(model: type[BaseModel], fault: Any, place: str, at: tuple[str, ...]) -> str:
    location = tuple(str(part) for part in fault["loc"])
    known = _known_keys(model, location[:-1])
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(location[-1], known, 1) if known else []
        hint = f"did you mean {near[0]!r}?" if near else f"known here are: {', '.join(sorted(known)) or 'none'}"
        return f"{place}: {dotted((*at, *location))}: unknown key; {hint}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if fault["type"] == "missing":
        message = "is required"
    elif fault["type"] in ("dict_type", "model_type", "model_attributes_type"):
        message = "must be a table"
    got = fault.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) and len(repr(got)) < 80 else ""
    return f"{place}: {dotted((*at, *location)) or 'configuration'}: {message[:1].lower()}{message[1:]}{shown}"


def dotted(keys: Iterable[str]) -> str:
    """Keys as TOML writes them: dotted, quoted where needed."""
    return ".".join(key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"' for key in keys)


def _known_keys(model: Any, location: tuple[str, ...]) -> set[str]:
    """The keys that the table at `location` of `model` may have."""
    models = _models_in(model)
    for part in location:
        following: list[Any] = []
        for candidate in models:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                fields = candidate.model_fields
                if part in fields:
                    following += _models_in(fields[part].annotation)
            else:
                following += _models_in(typing.get_args(candidate)[-1])
        # A part that leads nowhere is pydantic's name for one kind of a union: stay.
        models = following or models
    return {
        name
        for candidate in models
        if isinstance(candidate, type) and issubclass(candidate, BaseModel)
        for name in candidate.model_fields
    }


def _models_in(annotation: Any) -> list[Any]:
    """The models, and the mappings and lists that may hold some, that an annotation allows."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _models_in(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [found for option in typing.get_args(annotation) for found in _models_in(option)]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping | list | tuple):
        return [annotation]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
