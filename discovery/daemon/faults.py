"""Validation of what a person wrote, by pydantic's types, with faults that name the key and the place. Pure."""

import datetime as dt
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from discovery.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_NAMES = (
    (str, "a string"),
    (bool, "true or false"),  # before int, which it is as well
    (int, "a whole number"),
    (float, "a number with a fraction"),
    (list | tuple, "a list"),
    (Mapping, "a table"),
    (dt.datetime, "a date and time"),  # before date, which it is as well
    (dt.date, "a date"),
    (dt.time, "a time of day"),
)
"""What a person calls the kinds of values that TOML has."""
_SHOWN = str | int | float | bool | dt.date | dt.time
_KINDS = {
    **dict.fromkeys(("string_type", "string_unicode"), "a string"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a table"),
    **dict.fromkeys(("dataclass_type", "dataclass_exact_type"), "a table"),
    **dict.fromkeys(("date_type", "date_parsing", "date_from_datetime_parsing"), "a date"),
    **dict.fromkeys(("time_type", "time_parsing"), "a time of day"),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing"), "a date and time"),
    **dict.fromkeys(("time_delta_type", "time_delta_parsing"), "a duration"),
    "path_type": "a path",
}
"""What pydantic asks for, by the type of its error, where the value is of another kind."""
_RULES = {
    "missing": "is required",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}
"""What a value of the right kind breaks, by the type of pydantic's error."""
_KEY = "[key]"
"""The last part of a location in pydantic's errors if the key of a table is at fault, and not the value."""


class Faults:
    """Gathers faults of several places, so that a single run reports all of them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lines: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Return True if there is any fault."""
        return bool(self._lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The faults so far."""
        return tuple(self._lines)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the ConfigError that the block raises, a line for each fault, and go on after it."""
        try:
            yield
        except ConfigError as error:
            self._lines |= dict.fromkeys(str(error).splitlines())

    def raise_if_any(self) -> None:
        """Raise a ConfigError with a line for each fault, in the order of gathering."""
        if self._lines:
            raise ConfigError("\n".join(self._lines))


def validate(model: type[M], raw: Any, place: str, at: tuple[str, ...] = (), beside: Collection[str] = ()) -> M:
    """`raw` as `model`. Raises ConfigError, a line for each fault: place, key, what is wrong, what was meant.

    `place` names the file or the command line, `at` the keys that lead to `raw` in it, `beside` the keys that somebody
    else reads of the same table.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [_fault(model, fault, place, at, beside) for fault in faults]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def dotted(keys: Iterable[str]) -> str:
    """Keys as TOML writes them: dotted, quoted where needed."""
    return ".".join(key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"' for key in keys)


def _fault(model: type[BaseModel], fault: Any, place: str, at: tuple[str, ...], beside: Collection[str]) -> str:
    location = tuple(str(part) for part in fault["loc"])
    known = _known_keys(model, location[:-1]) | set(beside if len(location) == 1 else ())
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(location[-1], known, 1) if known else []
        hint = f"did you mean {near[0]!r}?" if near else f"known here are: {', '.join(sorted(known)) or 'none'}"
        return f"{place}: {dotted((*at, *location))}: unknown key; {hint}"
    message = _message(fault)
    is_key = location[-1:] == (_KEY,)
    where = dotted((*at, *(location[:-1] if is_key else location))) or "configuration"
    return f"{place}: {where}: {'the key ' * is_key}{message[:1].lower()}{message[1:]}{_got(fault, message)}"


def in_words(error: ValidationError) -> str:
    """Return the fault of an argument of a command, which is text in any case."""
    told = []
    for fault in error.errors(include_url=False):
        kind = _KINDS.get(fault["type"])
        message = _message(fault) if kind is None else f"must be {kind}"
        told.append(message + _got(fault, message))
    return "; ".join(dict.fromkeys(told))


def _got(fault: Any, message: str) -> str:
    """The value at fault, if it is short: not what a plugin's message tells already, nor what may hold a password."""
    got = fault.get("input")
    told = _written(got)
    repeated = fault["type"] not in _KINDS | _RULES and told in message
    tellable = isinstance(got, _SHOWN) and len(told) < 80 and not repeated and not ("://" in told and "@" in told)
    return f" (got {told})" if tellable else ""


def _message(fault: Any) -> str:
    """Return the fault in words of this project."""
    if (kind := _KINDS.get(fault["type"])) is not None:
        return f"must be {kind}, not {_kind_of(fault.get('input'))}"
    if (rule := _RULES.get(fault["type"])) is not None:
        with suppress(KeyError):  # a plugin's own error may be of that type, and lack what pydantic tells with it
            return rule.format(**{name: _plain(value) for name, value in fault.get("ctx", {}).items()})
    return str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _written(value: object) -> str:
    """Return the value as TOML."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


def _kind_of(value: object) -> str:
    return next((name for kind, name in _NAMES if isinstance(value, kind)), type(value).__name__)


def _plain(value: object) -> object:
    """Return a bound without a fraction as a whole number, with every digit."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


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
