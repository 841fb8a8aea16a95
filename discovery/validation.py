"""Validation of what a person wrote, by pydantic's types, with faults that name the key and the place. Pure."""

import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from discovery.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class Faults:
    """Gathers what is wrong in several places, so that a person is told everything in one run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lines: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
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
        """Raise one ConfigError with a line for each fault, in the order in which they were gathered."""
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
        faults = error.errors(include_url=False, include_context=False)
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
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if fault["type"] == "missing":
        message = "is required"
    elif fault["type"] in ("dict_type", "model_type", "model_attributes_type"):
        message = "must be a table"
    got = fault.get("input")
    # What the message tells already is not repeated, and what may hold a password is not told.
    tellable = isinstance(got, str | int | float | bool) and len(repr(got)) < 80 and repr(got) not in message
    shown = f" (got {got!r})" if tellable and not ("://" in str(got) and "@" in str(got)) else ""
    return f"{place}: {dotted((*at, *location)) or 'configuration'}: {message[:1].lower()}{message[1:]}{shown}"


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
