"""What a person is told of a value of another kind: the key, what it must be, what it is. In our words."""

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from discovery.daemon.faults import validate
from discovery.errors import ConfigError
from discovery.plugin import PluginConfig


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(PluginConfig):
    deep: int = 0


class Every(PluginConfig):
    text: str = ""
    count: int = 0
    ratio: float = 0.0
    flag: bool = False
    many: tuple[str, ...] = ()
    some: list[int] = Field(default_factory=list)
    unique: frozenset[str] = frozenset()
    table: dict[str, int] = Field(default_factory=dict)
    inner: Inner = Inner()
    either: int | Inner = 0
    path: Path | None = None
    choice: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    bounded: int = Field(default=5, ge=1, le=9)
    open: float = Field(default=5, gt=1, lt=9)
    vast: float = Field(default=0, le=31_536_000)
    finite: Annotated[float, Field(allow_inf_nan=False)] = 0
    even: int = Field(default=2, multiple_of=2)
    short: str = Field(default="ab", min_length=2, max_length=3)
    pair: tuple[int, ...] = Field(default=(1, 2), min_length=2, max_length=3)
    shape: str = Field(default="a", pattern="^a+$")
    day: dt.date | None = None
    named: dict[Annotated[str, Field(pattern="^a+$")], int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": 3}, "text: must be a string, not a whole number (got 3)"),
        ({"text": ["x"]}, "text: must be a string, not a list"),
        ({"text": dt.date(2020, 1, 2)}, "text: must be a string, not a date (got 2020-01-02)"),
        ({"text": dt.time(3, 4)}, "text: must be a string, not a time of day (got 03:04:00)"),
        ({"text": dt.datetime(2020, 1, 2)}, "text: must be a string, not a date and time (got 2020-01-02 00:00:00)"),  # noqa: DTZ001
        ({"count": "many"}, "count: must be a whole number, not a string (got 'many')"),
        ({"count": 1.5}, "count: must be a whole number, not a number with a fraction (got 1.5)"),
        ({"count": [1]}, "count: must be a whole number, not a list"),
        ({"count": float("inf")}, "count: must be a finite number (got inf)"),
        ({"ratio": "soon"}, "ratio: must be a number, not a string (got 'soon')"),
        ({"ratio": {}}, "ratio: must be a number, not a table"),
        ({"flag": "perhaps"}, "flag: must be true or false, not a string (got 'perhaps')"),
        ({"flag": 3}, "flag: must be true or false, not a whole number (got 3)"),
        ({"flag": []}, "flag: must be true or false, not a list"),
        ({"many": 3}, "many: must be a list, not a whole number (got 3)"),
        ({"many": "x"}, "many: must be a list, not a string (got 'x')"),
        ({"many": ["x", 3]}, "many.1: must be a string, not a whole number (got 3)"),
        ({"some": {"a": 1}}, "some: must be a list, not a table"),
        ({"unique": 3}, "unique: must be a list, not a whole number (got 3)"),
        ({"table": True}, "table: must be a table, not true or false (got true)"),
        ({"inner": "x"}, "inner: must be a table, not a string (got 'x')"),
        ({"path": 3}, "path: must be a path, not a whole number (got 3)"),
        ({"choice": "c"}, "choice: must be 'a' or 'b' (got 'c')"),
        ({"choice": 3}, "choice: must be 'a' or 'b' (got 3)"),
        ({"colour": "green"}, "colour: must be 'red' or 'blue' (got 'green')"),
        ({"bounded": -1}, "bounded: must be at least 1 (got -1)"),
        ({"bounded": 0}, "bounded: must be at least 1 (got 0)"),
        ({"bounded": 10}, "bounded: must be at most 9 (got 10)"),
        ({"open": 1}, "open: must be more than 1 (got 1)"),
        ({"open": 9.0}, "open: must be less than 9 (got 9.0)"),
        ({"vast": 4e7}, "vast: must be at most 31536000 (got 40000000.0)"),
        ({"finite": float("nan")}, "finite: must be a finite number (got nan)"),
        ({"even": 3}, "even: must be a multiple of 2 (got 3)"),
        ({"short": "a"}, "short: must have at least 2 characters (got 'a')"),
        ({"short": "abcd"}, "short: must have at most 3 characters (got 'abcd')"),
        ({"pair": [1]}, "pair: must have at least 2 entries"),
        ({"pair": [1, 2, 3, 4]}, "pair: must have at most 3 entries"),
        ({"shape": "b"}, "shape: must match the pattern ^a+$ (got 'b')"),
        ({"named": {"b c": 1}}, "named.\"b c\": the key must match the pattern ^a+$ (got 'b c')"),
        ({"day": "soon"}, "day: must be a date, not a string (got 'soon')"),
    ],
)
def test_a_fault_names_the_key_what_it_must_be_and_what_it_is(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Every, given, "x.toml")
    assert str(caught.value) == f"x.toml: {told}"


def test_a_plugin_s_own_fault_keeps_its_words_where_pydantic_s_details_are_missing() -> None:
    class Own(PluginConfig):
        crew: str = ""

        @field_validator("crew")
        @classmethod
        def _somebody(cls, crew: str) -> str:
            raise PydanticCustomError("too_short", "nobody is on board")

    with pytest.raises(ConfigError, match="^x.toml: crew: nobody is on board"):
        validate(Own, {"crew": "-"}, "x.toml")


@pytest.mark.parametrize(
    "value", [3, -1, 2.5, "x", "", True, [], [[]], {}, {"a": 1}, dt.date(2020, 1, 2), float("nan")]
)
@pytest.mark.parametrize("key", Every.model_fields)
def test_no_wording_of_the_library_is_shown(key: str, value: Any) -> None:
    try:
        validate(Every, {key: value}, "x.toml")
    except ConfigError as error:
        for line in str(error).splitlines():
            assert "input" not in line, line
            assert "valid" not in line, line
            assert "class" not in line, line
