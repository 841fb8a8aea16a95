"""Faults of files of users, which HAProxy itself accepts: a file without a user, or with hashes, lets nobody in."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from discovery_haproxy.deployment.faults import STATS, Fault, Part, PartKind
from discovery_haproxy.options.config import HAProxyConfig

_BLANKS = b" \t\r\n"
_HASH = re.compile(rb"\$(?:1|2[abxy]?|5|6|7|y|gy|md5|sha1|apr1|argon2[a-z]*)\$.*\$.+|\$2[abxy]\$[0-9]+\$.+|\{S?SHA\}.+")
"""Hashes of crypt(3) and of htpasswd."""


def login_faults(config: HAProxyConfig, digests: Mapping[Path, str], *, here: bool) -> tuple[Fault, ...]:
    """Return the faults of the files of users that the configuration names, each of the part that has the login.

    `digests` are those of the files: a file that is unchanged is not read again. `here` is True if HAProxy reads the
    files of this machine; otherwise a file that cannot be read is no fault.
    """
    found = []
    for part, path in _files(config):
        try:
            fault = _fault(path, digests.get(path, ""))
        except OSError as error:
            fault = f" cannot be read: {error.strerror}" if here else ""
        if fault:
            owner = "'stats'" if part == STATS else f"service {part.service!r}"
            found.append(Fault(f"users_file {path} of {owner}{fault}", part=part))
    return tuple(found)


def _files(config: HAProxyConfig) -> Iterator[tuple[Part, Path]]:
    if config.stats and config.stats.users_file:
        yield STATS, config.stats.users_file
    for name, service in sorted(config.services.items()):
        if service.basic_auth:
            yield Part(PartKind.SERVICE, name), service.basic_auth.users_file


@lru_cache(maxsize=256)
def _fault(path: Path, _digest: str) -> str:
    """Return what is wrong with the contents of a file; empty for nothing. Raises OSError."""
    users = 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        user = line.strip(_BLANKS)
        if not user or user.startswith(b"#"):
            continue
        users += 1
        name, _, password = user.partition(b":")
        if not name or not password:
            return f": line {number} is not NAME:PASSWORD"
        if _HASH.fullmatch(password):
            return f": line {number} has a hash in place of a password, which HAProxy would compare as it stands"
    return "" if users else " has no user, so that nobody could log in: write NAME:PASSWORD"
