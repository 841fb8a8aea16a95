"""The files that HAProxy holds in memory: those that commands replace, and those that only a reload replaces. Pure."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.incremental import by_identity
from discovery_haproxy.rendering.quoting import argument
from discovery_haproxy.rendering.route_map import digest_comment
from discovery_haproxy.text.contents import certificate_comment, is_replaceable


class Held(NamedTuple):
    """The digests of files, by the way in which HAProxy gets new contents."""

    comments: str
    """The lines of the configuration that name the digests of all certificates and maps that commands replace."""
    reload_digests: tuple[tuple[str, str], ...]
    """Digests of the files that only a reload replaces. Of a file that a command replaces the name stands here."""


_CERTIFICATE = re.compile(r"[ \t]crt[ \t]+(\S+)")


def hold(
    config: HAProxyConfig,
    own_text: str | None,
    digests: Mapping[Path, str],
    certificates: Mapping[Path, str],
    maps: Mapping[Path, str],
) -> Held:
    """Split the files of a configuration.

    `digests` are those of `referenced_files`, `certificates` those of each certificate file among them and in
    directories among them, and `maps` are the contents of the map files. `own_text` is what the user's own template has
    printed; None for the built-in template, which names each certificate. A command replaces only what HAProxy has
    loaded.
    """
    paths = sorted(certificate_paths(config) - set(config.files))
    if own_text is not None and paths:
        named = set(_CERTIFICATE.findall(own_text))
        paths = [path for path in paths if argument(path) in named]
    rest = {str(path): digest for path, digest in digests.items()}
    files: dict[Path, list[Path]] = defaultdict(list)
    for file in certificates:
        files[file].append(file)
        files[file.parent].append(file)
    comments: list[str] = []
    for path in paths:
        found = sorted(files[path])
        if found and all(is_replaceable(str(file)) for file in found):
            rest.pop(str(path), None)
            rest |= {str(file): "" for file in found}
            comments += (certificate_comment(str(file), certificates[file]) for file in found)
    for path, contents in maps.items():
        comments.append(digest_comment(path, contents))
        rest[str(path)] = "" if is_replaceable(str(path)) else hashlib.sha256(contents.encode()).hexdigest()
    return Held("".join(dict.fromkeys(comments)), tuple(sorted(rest.items())))


@by_identity
def certificate_paths(config: HAProxyConfig) -> frozenset[Path]:
    """Return the certificate files, and the directories of certificate files, that the configuration names."""
    binds = [bind for service in config.services.values() for bind in service.bind or ()]
    return frozenset(path for bind in (*config.bind, *binds) for path in bind.certificate)
