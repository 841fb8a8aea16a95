"""Options of a `server` line that come from the labels of its backend.

Labels are data from the registry: a bad value leaves that option out, with a problem, and never a backend.
"""

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from discovery import Backend, PluginConfig
from discovery.fields import LabelName, LabelValues, format_value

_PORT = re.compile(r"[0-9]{1,5}")
_MOST_PORT = 65535
"""The largest TCP port."""
_FACTOR = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
_MOST_WEIGHT = 256
"""The largest weight that HAProxy accepts, and the largest factor, with which the weight 1 becomes the largest."""
_QUOTED_CHARACTERS = 60
"""Characters of a label's value in a message, which is one line."""


class FromLabel(PluginConfig):
    """An option of each server whose value is that of a label of its backend."""

    label: LabelName


def _check_port(value: object) -> object:
    """Return a port or a `FromLabel`. A mistake has one message, and not one for each type. Raises ValueError."""
    if value is None or isinstance(value, FromLabel):
        return value
    if isinstance(value, dict):
        try:
            return FromLabel.model_validate(value)
        except ValidationError as error:
            for fault in error.errors():
                if fault["type"] == "value_error":  # of the label's name
                    raise ValueError(str(fault["ctx"]["error"])) from None
    elif _PORT.fullmatch(str(value)) and 0 < int(str(value)) <= _MOST_PORT:
        return int(str(value))
    raise ValueError(
        f"{format_value(value)} is not a port to check: write a number from 1 to {_MOST_PORT},"
        ' or the label that has it, such as { label = "check_port" }'
    )


CheckPort = Annotated[
    int | FromLabel | None, BeforeValidator(_check_port, json_schema_input_type=int | FromLabel | None)
]
"""The port of a check, or the label that has it; None for the backend's own port."""


class BackupConfig(FromLabel):
    """The backends that are backups: those whose label has one of the values `is`, or none of the values `not`."""

    is_: LabelValues | None = Field(default=None, alias="is")
    not_: LabelValues | None = Field(default=None, alias="not")
    all: bool = False
    """Traffic that goes to backups goes to every backup, and not to the first backup alone."""

    @model_validator(mode="after")
    def _check_values(self) -> "BackupConfig":
        if (self.is_ is None) == (self.not_ is None):
            raise ValueError("give exactly one of 'is' and 'not', such as { label = \"zone\", not = \"eu-1\" }")
        return self


class LabelOptions(NamedTuple):
    """Options of a server. `check_port` is None if checks go to the backend's own port."""

    weight: int
    backup: bool = False
    check_port: int | None = None
    problems: tuple[str, ...] = ()


def options_from_labels(
    backend: Backend, *, backup: BackupConfig | None, factor: FromLabel | None, port: int | FromLabel | None
) -> LabelOptions:
    """Return the options that the labels of the backend give, and what is wrong with the labels' values.

    `port` is the port of checks. An empty or missing label gives no factor and no port.
    """
    if backup is None and factor is None and not isinstance(port, FromLabel):
        return LabelOptions(backend.weight)  # as in most services
    problems: list[str] = []
    weight = backend.weight
    if factor is not None and (text := backend.labels.get(factor.label)):
        number = float(text) if _FACTOR.fullmatch(text) else None
        if number is None or number > _MOST_WEIGHT:
            problems.append(_problem(backend, factor, text, f"a number from 0 to {_MOST_WEIGHT}", "the weight stays"))
        else:
            weight = _multiply(weight, number)
    check_port = None
    if isinstance(port, FromLabel) and (text := backend.labels.get(port.label)):
        number = int(text) if _PORT.fullmatch(text) else 0
        if 0 < number <= _MOST_PORT:
            check_port = int(number)
        else:
            problems.append(
                _problem(backend, port, text, f"a port from 1 to {_MOST_PORT}", "the backend's own port is checked")
            )
    return LabelOptions(weight, _is_backup(backup, backend), check_port, tuple(problems))


def _multiply(weight: int, factor: float) -> int:
    """Return the product as a weight: a small product is no 0, which would take the backend out of service."""
    if not weight or not factor:
        return 0
    return max(1, min(_MOST_WEIGHT, round(weight * factor)))


def _is_backup(config: BackupConfig | None, backend: Backend) -> bool:
    """Report whether the backend is a backup. A missing label is the empty value, as in a selection."""
    if config is None:
        return False
    value = backend.labels.get(config.label, "")
    return value in config.is_ if config.is_ is not None else value not in (config.not_ or ())


def _problem(backend: Backend, source: FromLabel, text: str, wanted: str, instead: str) -> str:
    return (
        f"backend {backend.id!r} of {backend.service!r}: the label {source.label!r} is"
        f" {text[:_QUOTED_CHARACTERS]!r}, not {wanted}; {instead}"
    )
