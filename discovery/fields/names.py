"""Names of services."""

from typing import Annotated, Any

from discovery.errors import RecordError
from discovery.fields.parsed import Parsed, format_value
from discovery.validity import validate_service


class _ServiceName(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        return service_name(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"}


def service_name(value: object) -> str:
    """Return the name of a service. Raises ValueError, with the value and the rule, if the registry refuses the name.

    A name has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with a letter, a digit or `_`.
    """
    if not isinstance(value, str):
        raise ValueError(f"{format_value(value)} is not the name of a service, which is text")
    try:
        return validate_service(value)
    except RecordError as error:
        raise ValueError(str(error)) from None


def is_service_name(text: str) -> bool:
    """Return True if `text` is a valid name of a service: see `service_name`."""
    try:
        service_name(text)
    except ValueError:
        return False
    return True


ServiceName = Annotated[str, _ServiceName()]
"""The name of a service: see `service_name`."""
