"""The announced address of this machine, as a configuration names the address."""

from typing import Annotated, Any

from discovery.addresses.rule import SOURCES, is_dynamic, parse_source
from discovery.errors import RecordError
from discovery.fields.parsed import Parsed, format_value
from discovery.validity import validate_host


class _OwnAddress(Parsed):
    __slots__ = ()

    def parse(self, value: object) -> str:
        """Return the canonical form. Raises ValueError, one line that names the valid forms."""
        if not isinstance(value, str):
            raise ValueError(f"{format_value(value)} is not an address to announce: write {SOURCES}")
        source = parse_source(value)
        try:
            return source if is_dynamic(source) else validate_host(source)
        except RecordError as error:
            raise ValueError(str(error)) from None

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema: text, with examples."""
        examples = ["10.0.0.5", "2001:db8::5", "web-1.example.com", "interface:eth1", "network:10.0.0.0/8", "metadata"]
        return {"type": "string", "examples": [*examples, "metadata:public"]}


OwnAddress = Annotated[str, _OwnAddress()]
"""An address of this machine to announce: an address, a host name, `interface:eth1`, `network:10.0.0.0/8`, `metadata`.

`discovery.addresses.OwnAddresses` reads the addresses that the option stands for.
"""
