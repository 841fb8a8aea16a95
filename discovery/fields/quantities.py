"""Durations and whole numbers within bounds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from discovery.fields.parsed import Parsed, format_value
from discovery.validity import MAX_WEIGHT

LONGEST = 365 * 86400.0
"""Seconds, one year: the limit of a duration that has no smaller limit. A longer duration is most likely a mistake."""

_MOST_IN_A_ROW = 1000
"""Outcomes of checks in a row: with a higher limit a change of state can come so late that a check has no effect."""
_LONGEST_DURATION_TEXT = 100
"""Characters. Durations also come from container labels, which may have any length."""
_NUMBER = r"(?:[0-9]{1,12}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})"
_UNIT = "(ns|us|µs|μs|ms|s|m|h|d)"
_DURATION = f"({_NUMBER}){_UNIT}"
_PATTERN = rf"^[0-9]*\.?[0-9]+({_UNIT}([0-9]*\.?[0-9]+{_UNIT})*)?$"
"""The pattern of a duration in a JSON schema, which cannot express the bounds.

`Duration` also accepts a number that ends with a point, which the pattern refuses.
"""
_UNITS: Mapping[str, float] = {
    **dict.fromkeys(("us", "µs", "μs"), 1e-6),
    "ns": 1e-9,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@dataclass(frozen=True, slots=True)
class Duration(Parsed):
    """A duration in seconds within bounds, for `Annotated[float, Duration(0.1, 3600)]`.

    Valid forms: a number of seconds (`10`, `0.5`, `"10"`), and text with units: `500ms`, `10s`, `5m`, `2h`, `1d`,
    `1.5s`, `1m30s` (the units `us` and `ns`, too). `true` and `false` are not valid.

    `least` and `most` are the bounds in seconds, both included. With `least` 0 a duration is more than 0. `zero`, if
    given, says what a duration of 0 means, as in "never"; only then 0 is valid.
    """

    least: float = 0.0
    most: float = LONGEST
    zero: str = ""

    def parse(self, value: object) -> float:
        """Return seconds. Raises ValueError, one line with the value, the bounds and the valid forms."""
        seconds = _seconds(value)
        if seconds is None or not (self.least <= seconds <= self.most if seconds else self.zero):
            raise ValueError(
                f"{format_value(value)} is not a duration {self.bounds}:"
                " write a number of seconds, or a time such as 500ms, 10s, 5m or 2h"
            )
        return seconds

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: a number within the bounds, or text."""
        number = {"type": "number", "minimum" if self.zero or self.least else "exclusiveMinimum": self.least}
        if self.zero:
            number["minimum"] = 0.0
        text = {"type": "string", "pattern": _PATTERN, "examples": ["500ms", "10s", "5m", "2h"]}
        return {"anyOf": [number | {"maximum": self.most}, text | {"description": f"A duration {self.bounds}"}]}

    @property
    def bounds(self) -> str:
        """The bounds for a person: `from 1s to 1h`, `from 0 (never) to 1m`."""
        most = duration_text(self.most)
        if not self.zero:
            return f"from {duration_text(self.least)} to {most}" if self.least else f"of more than 0 and at most {most}"
        if not self.least:
            return f"from 0 ({self.zero}) to {most}"
        return f"from {duration_text(self.least)} to {most}, or 0 ({self.zero})"


@dataclass(frozen=True, slots=True)
class WholeNumber(Parsed):
    """A whole number from `least` to `most`, both included, for `Annotated[int, WholeNumber(1, 10)]`.

    Text that is such a number is valid (`"5"`); `true`, `false` and a fraction are not.
    """

    least: int
    most: int

    @property
    def bounds(self) -> str:
        """The bounds for a person: `from 1 to 10`."""
        return f"from {self.least} to {self.most}"

    def parse(self, value: object) -> int:
        """Return the number. Raises ValueError, one line with the value and the bounds."""
        number = None
        match value:
            case bool():
                pass
            case int():
                number = value
            case float() if value.is_integer():
                number = int(value)
            case str() if re.fullmatch(r"[0-9]{1,15}", value):
                number = int(value)
        if number is None or not self.least <= number <= self.most:
            raise ValueError(f"{format_value(value)} is not a whole number {self.bounds}")
        return number

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: an integer within the bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


def duration_text(seconds: float) -> str:
    """Return a duration with its largest unit that needs no fraction: `1h`, `90s`, `1500ms`; `0` for 0.

    `seconds` is at least 0. A duration that is no whole number of milliseconds has a fraction, as in `0.5ms`.
    """
    milliseconds = round(seconds * 1000)
    if not seconds:
        return "0"
    if not milliseconds or abs(milliseconds - seconds * 1000) > 1e-6:  # the error of the multiplication is far smaller
        return f"{seconds * 1000:g}ms"
    return next(f"{milliseconds // size}{unit}" for unit, size in _MILLISECONDS.items() if milliseconds % size == 0)


def _seconds(value: object) -> float | None:
    """Return the duration in seconds, at least 0, or None if the value has no valid form."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1e18 else None  # float() of a larger int may raise OverflowError
    if not isinstance(value, str) or len(value) > _LONGEST_DURATION_TEXT:
        return None
    if re.fullmatch(_NUMBER, value):
        return float(value)
    if not re.fullmatch(f"({_DURATION})+", value):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION, value))


TTL = Duration(1, 3600)
"""The TTL of a record in seconds, after which the record of a dead machine expires.

Below 1 s a busy machine loses its lease; above 1 h dead backends stay too long.
"""
CHECK_TIME = Duration(0.1, 3600)
"""The interval or the timeout of a check in seconds. Below 100 ms the checks themselves are a load on the backend."""
WEIGHT = WholeNumber(0, MAX_WEIGHT)
"""The weight of a backend in a registry record."""

Weight = Annotated[int, WEIGHT]
"""The weight of a backend relative to the other backends of its service, 0-256; 0: no new connections."""
Port = Annotated[int, WholeNumber(1, 65535)]
"""A port of TCP or UDP, 1-65535."""
Rise = Annotated[int, WholeNumber(1, _MOST_IN_A_ROW)]
"""The number of successes in a row that end a failure, 1-1000."""
Fall = Annotated[int, WholeNumber(1, _MOST_IN_A_ROW)]
"""The number of failures in a row that begin a failure, 1-1000."""
