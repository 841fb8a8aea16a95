"""Clauses: the configuration of a plugin. Pure, but for the plugin's own validators."""

from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from discovery.errors import describe
from discovery.plugin import PluginConfig
from discovery.testing.clauses import expect

_UNKNOWN = "no_such_option_of_the_contract"


class Options(NamedTuple):
    """The class of a plugin's configuration, and the configuration that a contract has."""

    kind: Any
    config: Mapping[str, Any]


def the_configuration_is_a_plugin_config(seen: Options) -> None:
    """The core validates the options of a plugin by `Config`, a class that derives from `PluginConfig`."""
    is_config = isinstance(seen.kind, type) and issubclass(seen.kind, PluginConfig)
    expect(is_config, "Config to be a class that derives from PluginConfig", seen.kind)


def the_configuration_of_the_contract_is_valid(seen: Options) -> None:
    """Every clause makes instances with the `config` of the contract."""
    try:
        seen.kind.model_validate(seen.config)
    except ValidationError as error:
        expect(False, "a valid configuration", str(error))


def unknown_options_are_refused(seen: Options) -> None:
    """A misspelt option that is ignored has no effect, and nobody is told."""
    for where, changed in (("the table", {**seen.config, _UNKNOWN: 1}), *_nested(seen.kind, seen.config)):
        try:
            seen.kind.model_validate(changed)
        except ValidationError:
            continue
        expect(False, "a ValidationError for an option that does not exist", f"the option was accepted in {where}")


def the_configuration_is_frozen(seen: Options) -> None:
    """Several threads read the configuration, and a reload compares the present configuration with the new."""
    config = seen.kind.model_validate(seen.config)
    for name in type(config).model_fields:
        try:
            setattr(config, name, getattr(config, name))
        except (ValidationError, TypeError, AttributeError):
            continue
        expect(False, "an error when a field is set", f"the field {name} can be set")


def equal_configurations_are_equal(seen: Options) -> None:
    """At a reload the core restarts an instance whose configuration has changed."""
    one, other = seen.kind.model_validate(seen.config), seen.kind.model_validate(seen.config)
    expect(one == other, "two equal objects for the same table", f"{one!r} and {other!r}")


def the_configuration_has_a_schema(seen: Options) -> None:
    """`discovery config schema` and editors read the JSON schema of the options."""
    try:
        seen.kind.model_json_schema()
    except Exception as error:  # noqa: BLE001 - pydantic raises errors of several kinds
        expect(False, "a JSON schema", describe(error))


OPTIONS: tuple[Callable[[Options], None], ...] = (
    the_configuration_is_a_plugin_config,
    the_configuration_of_the_contract_is_valid,
    unknown_options_are_refused,
    the_configuration_is_frozen,
    equal_configurations_are_equal,
    the_configuration_has_a_schema,
)


def _nested(kind: Any, config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the configuration with an unknown option in each table within that is a model of its own."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in config.items():
        info = _field(kind, name)
        found += [
            (f"the table {name}{where}", {**config, name: changed})
            for where, changed in _with_unknown(info.annotation if info else None, value)
        ]
    return found


def _field(kind: Any, name: str) -> Any:
    """Return the field of the model `kind` that the option `name` of a table sets, or None."""
    return kind.model_fields.get(name) or next(
        (each for each in kind.model_fields.values() if each.alias == name), None
    )


def _with_unknown(annotation: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield `value` with an unknown option in each table of a model within, and where that table is.

    Tables of a model may be in a list or, by any name, in a table. Of several models that a table may be (`A | B`) none
    is looked at: which of them the table is, its validator decides.
    """
    origin, arguments = get_origin(annotation), [each for each in get_args(annotation) if each is not type(None)]
    if origin is Annotated or (origin in (Union, UnionType) and len(arguments) == 1):
        yield from _with_unknown(arguments[0], value)
    elif isinstance(value, Mapping) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", {**value, _UNKNOWN: 1}
        yield from ((f".{where}", changed) for where, changed in _nested(annotation, value))
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for name, each in value.items():
            yield from (
                (f".{name}{where}", {**value, name: changed}) for where, changed in _with_unknown(arguments[1], each)
            )
    elif isinstance(value, list | tuple) and arguments:
        for number, each in enumerate(value):
            yield from (
                (f"[{number}]{where}", [*value[:number], changed, *value[number + 1 :]])
                for where, changed in _with_unknown(arguments[0], each)
            )
