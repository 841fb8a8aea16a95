"""Fields of X.509 certificates that people want to see, and that Python's `ssl` does not read from a file."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_UTC_TIME = 0x17  # the tag of ASN.1 for a time with a year of two digits
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # [0] EXPLICIT, left out by version 1; [3] EXPLICIT
_COMMON_NAME, _ALTERNATIVE_NAME = bytes.fromhex("550403"), bytes.fromhex("551d11")  # 2.5.4.3, 2.5.29.17
_DNS_NAME = 0x82  # [2] of GeneralName (RFC 5280, 4.2.1.6)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The fields of a certificate (RFC 5280) that people want to see.

    `name` is the common name, else the first alternative DNS name. `expires` is a time in UTC. `serial` is the serial
    number, big-endian.
    """

    name: str
    expires: datetime
    serial: bytes

    def __str__(self) -> str:
        """Return the name and the expiry, for a log."""
        return f"{self.name}, expires {_shown(self.expires)}"


def read_certificate(path: Path) -> Certificate | None:
    """Return the first certificate of the PEM file at `path`; None if the file has none, or cannot be read."""
    try:
        return parse_certificate(path.read_bytes())
    except OSError:
        return None


def parse_certificate(pem: bytes) -> Certificate | None:
    """The first certificate in a PEM text; None if it holds none."""
    begin = pem.find(_BEGIN)
    end = pem.find(_END, begin)
    if not 0 <= begin < end:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)].decode("ascii"))
        [certificate] = _elements(der)
        signed, *_ = _elements(certificate[1])
        fields = [element for element in _elements(signed[1]) if element[0] != _VERSION]
        serial, _, _, validity, subject, *rest = fields
        _, (tag, text) = _elements(validity[1])
        digits = text.decode("ascii")
        if tag == _UTC_TIME:
            digits = ("19" if digits[:2] >= "50" else "20") + digits
        expires = datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        return Certificate(_name(subject[1], rest), expires, serial[1])
    except (ValueError, IndexError, StopIteration):
        return None


def expiry(pem: bytes) -> datetime | None:
    """When the first certificate in a PEM text expires; None if it holds none."""
    certificate = parse_certificate(pem)
    return None if certificate is None else certificate.expires


def expired(pem: bytes | None) -> str | None:
    """When the first certificate in a PEM text has expired, for people; None if it has not."""
    end = expiry(pem) if pem is not None else None
    return _shown(end) if end is not None and end <= datetime.now(UTC) else None


def _shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _name(subject: bytes, rest: list[tuple[int, bytes]]) -> str:
    """The common name, else the first alternative name that is a host's, else the first part of the subject."""
    attributes = [tuple(_elements(pair)) for _, group in _elements(subject) for _, pair in _elements(group)]
    texts = {kind: value.decode(errors="replace") for (_, kind), (_, value) in attributes}
    if _COMMON_NAME in texts:
        return texts[_COMMON_NAME]
    for _, extensions in (element for element in rest if element[0] == _EXTENSIONS):
        for _, extension in _elements(next(_elements(extensions))[1]):
            (_, kind), *_, (_, value) = _elements(extension)
            if kind == _ALTERNATIVE_NAME:
                names = [name for tag, name in _elements(next(_elements(value))[1]) if tag == _DNS_NAME]
                if names:
                    return names[0].decode(errors="replace")
    return next(iter(texts.values()), "no name")


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and contents of each element of a DER encoding (X.690, 8.1)."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size]), at + size
        if at + length > len(der):
            raise ValueError("an element is cut off")
        yield tag, der[at : at + length]
        at += length
