"""What a certificate file says, as a log shows it."""

import _ssl
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Certificate:
    """The first certificate of a PEM file: the name it is for, when it expires (Unix time), and its serial number."""

    name: str
    expires: float
    serial: str

    def __str__(self) -> str:
        """For people: the name and the time."""
        return f"{self.name}, expires {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(self.expires))}"


def read_certificate(path: Path) -> Certificate | None:
    """The first certificate of the PEM file at `path`, None if there is none that can be read."""
    with suppress(OSError, ValueError, KeyError, AttributeError):
        # The standard library's only parser of a file that is to be shown, not trusted.
        fields: dict[str, Any] = getattr(_ssl, "_test_decode_cert")(str(path))  # noqa: B009 - no stub has it
        subject = [pair for part in fields.get("subject", ()) for pair in part]
        names = [value for key, value in subject if key == "commonName"]
        names += [value for _, value in (*fields.get("subjectAltName", ()), *subject)]
        expires = ssl.cert_time_to_seconds(fields["notAfter"])
        return Certificate(names[0] if names else "no name", expires, str(fields.get("serialNumber", "")))
    return None
