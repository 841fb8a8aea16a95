"""When a certificate expires: the one field of X.509 that is needed, of which Python's `ssl` tells nothing here."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_VERSION: Final = 0xA0  # [0] EXPLICIT, left out by version 1
_UTC_TIME: Final = 0x17


def expiry(pem: bytes) -> datetime | None:
    """When the first certificate in a PEM text expires (notAfter, RFC 5280, 4.1); None if it holds none."""
    begin, end = pem.find(_BEGIN), pem.find(_END)
    if not 0 <= begin < end:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)].decode("ascii"))
        [certificate] = _elements(der)
        signed, *_ = _elements(certificate[1])
        fields = [element for element in _elements(signed[1]) if element[0] != _VERSION]
        # serial number, signature algorithm, issuer, validity: not before, not after
        _, (tag, text) = _elements(fields[3][1])
        digits = text.decode("ascii")
        if tag == _UTC_TIME:
            digits = ("19" if digits[:2] >= "50" else "20") + digits
        return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, IndexError):
        return None


def expired(pem: bytes | None) -> str | None:
    """When the first certificate in a PEM text has expired, for people; None if it has not."""
    end = expiry(pem) if pem is not None else None
    return f"{end:%Y-%m-%d %H:%M:%S} UTC" if end is not None and end <= datetime.now(UTC) else None


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
