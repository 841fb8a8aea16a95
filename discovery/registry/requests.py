"""Requests of owners for records of other owners, as registries store the requests: beside the records, under `PLACE`.

A request is JSON: `{"owner": "...", "of": "...", "granted": true}`. Nothing in a request is trusted beyond what its key
permits: whoever writes a request may write the record as well.
"""

import json
from dataclasses import dataclass
from typing import Self

from discovery.errors import RecordError
from discovery.validity import validate_text

PLACE = ".takeover/"
"""The beginning of the keys of requests: no service has such a name, so no reader takes a request for a record."""
_MOST_BYTES = 8192
"""Bytes of a request: two names of owners, of 1,024 bytes each."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the owner `owner` for a record of the owner `of`; `granted` is true once that owner agrees."""

    owner: str
    of: str
    granted: bool = False

    @property
    def encoded(self) -> bytes:
        """The stored form."""
        return json.dumps({"owner": self.owner, "of": self.of, "granted": self.granted}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, value: bytes) -> Self | None:
        """Return the request in a stored value; None if the value is no request."""
        if len(value) > _MOST_BYTES:
            return None
        try:
            fields = json.loads(value)
            owner, of = (validate_text(name, fields[name]) for name in ("owner", "of"))
            return cls(owner, of, fields.get("granted") is True)
        except (RecordError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
