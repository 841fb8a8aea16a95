"""The form of every type of an option: a value is parsed, or refused in one line that names the valid forms.

This package does not import pydantic: commands parse durations without a model, and pydantic takes longer to import
than most commands take to run.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

_LONGEST_FORMATTED = 60
"""Characters of a refused value in a message, so that the message stays short on a terminal."""

T = TypeVar("T")


class Parsed:
    """Metadata of an `Annotated` type: pydantic validates with `parse`, and describes values with `json_schema`."""

    __slots__ = ()

    def parse(self, value: object) -> Any:
        """Return the value in its canonical form. Raises ValueError, one line that names the valid forms."""
        raise NotImplementedError

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values that `parse` accepts."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the schema by which pydantic validates."""
        from pydantic_core import core_schema  # imported on use: see the docstring of this module

        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the schema for `discovery config check --json-schema`."""
        return self.json_schema()


class OneOrManyMetadata:
    """Metadata of an `Annotated` tuple: a value that is no list counts as a list with that value alone."""

    __slots__ = ()

    def prepare(self, value: object) -> object:
        """Return the list or tuple that `value` stands for."""
        return one_or_many(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the schema by which pydantic validates."""
        from pydantic_core import core_schema  # imported on use: see the docstring of this module

        return core_schema.no_info_before_validator_function(self.prepare, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the schema for `discovery config check --json-schema`."""
        described = handler(schema)
        return {"anyOf": [described.get("items", {}), described]}


def format_value(value: object) -> str:
    """Return a value of a configuration file as an error message shows the value: in one line, at most 60 characters.

    Text is quoted; a date or a time is named as such (`the date 2020-01-01`); a table is `a table`.
    """
    text = _toml_text(value)
    return text if len(text) <= _LONGEST_FORMATTED else f"{text[: _LONGEST_FORMATTED - 3]}..."


def one_or_many(value: object) -> list[Any] | tuple[Any, ...]:
    """Return lists and tuples as given, and any other value as a tuple with that value alone."""
    return value if isinstance(value, list | tuple) else (value,)


def _toml_text(value: object) -> str:
    """Return a value in words of TOML, of any length."""
    import datetime as dt  # imported on use: only error messages need dates

    match value:
        case bool():
            return str(value).lower()
        case dt.datetime():  # before dt.date, the base class of dt.datetime
            return f"the date and time {value}"
        case dt.date():
            return f"the date {value}"
        case dt.time():
            return f"the time of day {value}"
        case list() | tuple():
            return f"[{', '.join(map(_toml_text, value))}]"
        case Mapping():
            return "a table"
    return repr(value)


OneOrMany = Annotated[tuple[T, ...], OneOrManyMetadata()]
"""A list of values, or a single value: `OneOrMany[int]` accepts `80` and `[80, 443]`. The value is a tuple."""
