"""New contents of a certificate that HAProxy has loaded: the commands, and what HAProxy tells of a certificate. Pure.

HAProxy's management guide, "set ssl cert", "commit ssl cert" and "show ssl cert". Private keys are in the payloads of
commands alone.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from discovery_haproxy.runtime_api.commands import Command

KEY, ISSUER, OCSP, SCTL = ".key", ".issuer", ".ocsp", ".sctl"
"""Suffixes of the files that HAProxy loads with a certificate."""
_MOST_BYTES = 15_000
"""Largest payload of a command: HAProxy closes the connection if a command fills `tune.bufsize`, 16,384 bytes."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n((?:[A-Za-z0-9+/=]+\n)+)-----END \1-----(?:\n|\Z)")
"""An item of a PEM file. Encrypted keys, which HAProxy cannot load, have further lines."""
_WAITS = r"(?:\+ )*"
"""HAProxy's prompts for the lines of a payload."""
_SHOWN = re.compile(r"^([A-Za-z0-9 ]+): ?(.*)$", re.MULTILINE)


class UnfitError(Exception):
    """Commands cannot carry the contents of a certificate file; the message is the reason."""


class NewCertificate(NamedTuple):
    """Commands that give a certificate new contents, and the fingerprint by which HAProxy then shows the contents."""

    path: str
    commands: tuple[Command, ...]
    fingerprint: str


class ShownCertificate(NamedTuple):
    """A certificate as HAProxy shows it. `names` are host names, `kind` is the kind of the key."""

    fingerprint: str
    names: frozenset[str]
    kind: str


def new_certificate(path: str, files: Mapping[str, bytes]) -> NewCertificate:
    """Return the commands for the contents of a certificate file: `files` by suffix, that of the file itself is empty.

    Raises UnfitError. HAProxy decides whether the contents are valid.
    """
    if SCTL in files:
        raise UnfitError("commands cannot carry an .sctl file")
    items = _items(files[""])
    if not any(kind.endswith("PRIVATE KEY") for kind, _ in items) and KEY in files:
        items += _items(files[KEY])
    kinds = [kind for kind, _ in items]
    if "CERTIFICATE" not in kinds or sum(kind.endswith("PRIVATE KEY") for kind in kinds) != 1:
        raise UnfitError("it has no certificate with exactly one private key")
    payloads = {path: "".join(text for _, text in items)}
    if ISSUER in files:
        payloads[path + ISSUER] = "".join(text for _, text in _items(files[ISSUER]))
    if OCSP in files:
        payloads[path + OCSP] = base64.b64encode(files[OCSP]).decode() + "\n"
    if any(len(payload) > _MOST_BYTES for payload in payloads.values()):
        raise UnfitError(f"it has more than {_MOST_BYTES} bytes, the most that a command can carry")
    done = re.compile(rf"{_WAITS}Transaction (created|updated) for certificate {re.escape(path)}!\s*")
    committed = re.compile(rf"Committing {re.escape(path)}\.+\s*Success!\s*")
    return NewCertificate(
        path,
        (
            *(Command(f"set ssl cert {file} <<", done, payload) for file, payload in payloads.items()),
            Command(f"commit ssl cert {path}", committed),
        ),
        _fingerprint(next(text for kind, text in items if kind == "CERTIFICATE")),
    )


def parse_shown(answer: str) -> ShownCertificate | None:
    """Parse the answer to `show ssl cert PATH`; None for any other text."""
    fields = dict(_SHOWN.findall(answer))
    if "SHA1 FingerPrint" not in fields:
        return None
    alternative = (name.strip().partition(":") for name in fields.get("Subject Alternative Name", "").split(","))
    names = {name for kind, _, name in alternative if kind == "DNS"}  # not an address, which no client names
    names |= {each.partition("=")[2] for each in fields.get("Subject", "").split("/") if each.startswith("CN=")}
    kind = re.sub(r"[0-9]+", "", fields.get("Algorithm", ""))
    return ShownCertificate(fields["SHA1 FingerPrint"], frozenset(map(str.lower, names - {""})), kind)


def parse_list(answer: str) -> tuple[str, ...]:
    """Return the paths in the answer to `show ssl cert`, without those of unfinished changes."""
    return tuple(line for line in answer.split("\n") if line and not line.startswith(("#", "*")))


def shared_name(new: ShownCertificate, others: Iterable[ShownCertificate]) -> str:
    """Return a name that another certificate with the same kind of key has, too; empty if there is none.

    HAProxy serves the first of these, and puts a certificate with new contents last.
    """
    shared = {name for other in others if other.kind == new.kind for name in other.names & new.names}
    return min(shared, default="")


def _items(data: bytes) -> list[tuple[str, str]]:
    """Return the kind and the text of each item of a PEM file. Raises UnfitError."""
    try:
        text = "".join(f"{line.rstrip()}\n" for line in data.decode("ascii").splitlines())
    except UnicodeDecodeError:
        raise UnfitError("it is not a text") from None
    found = [(match[1], match[0]) for match in _BLOCK.finditer(text)]
    if len(found) != text.count("-----BEGIN"):
        raise UnfitError("it has an item that is not in the usual form")
    return [(kind, item if item.endswith("\n") else f"{item}\n") for kind, item in found]


def _fingerprint(pem: str) -> str:
    try:
        der = base64.b64decode("".join(pem.splitlines()[1:-1]), validate=True)
    except binascii.Error:
        raise UnfitError("its certificate is damaged") from None
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
