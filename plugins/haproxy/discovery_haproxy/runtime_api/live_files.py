"""New contents of certificates and maps in the running HAProxy: set, and read back."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from discovery_haproxy.runtime_api import certificates, maps
from discovery_haproxy.runtime_api.certificates import NewCertificate, ShownCertificate, new_certificate
from discovery_haproxy.runtime_api.connection import Connection, RuntimeApiError
from discovery_haproxy.text.contents import Contents

_BATCH = 100
"""Certificates that HAProxy shows at once: a batch takes 5 ms, and requests wait no longer."""
_SUFFIXES = ("", certificates.KEY, certificates.ISSUER, certificates.OCSP, certificates.SCTL)


def read_certificate_files(path: str) -> NewCertificate:
    """Read a certificate file and the files beside it. Raises UnfitError if commands cannot carry the contents."""
    files = {}
    for suffix in _SUFFIXES:
        try:
            files[suffix] = Path(path + suffix).read_bytes()
        except FileNotFoundError:
            if not suffix:
                raise certificates.UnfitError("it does not exist") from None
        except OSError as error:
            raise certificates.UnfitError(f"{path}{suffix} cannot be read: {error.strerror}") from None
    return new_certificate(path, files)


async def set_certificates(connection: Connection, changes: Sequence[NewCertificate]) -> None:
    """Give certificates new contents. Raises RuntimeApiError; a change that was begun is then given up.

    HAProxy has one unfinished change at a time. HAProxy 2.6 takes any certificate for the contents of that change.
    """
    if not changes:
        return
    changed = {change.path for change in changes}
    paths = [path for path in certificates.parse_list(await connection.ask("show ssl cert")) if path not in changed]
    present: list[ShownCertificate] = []
    for start in range(0, len(paths), _BATCH):
        batch = [f"show ssl cert {path}" for path in paths[start : start + _BATCH]]
        present += filter(None, map(certificates.parse_shown, await connection.ask_all(batch)))
    for change in changes:
        *fill, commit = change.commands
        try:
            for command in fill:
                await connection.obey(command)
            await _check_new(connection, change, present)
            await connection.obey(commit)
        except RuntimeApiError:
            with suppress(RuntimeApiError):
                await connection.ask(f"abort ssl cert {change.path}")
            raise
        shown = await _shown(connection, change.path)
        if shown is None or shown.fingerprint != change.fingerprint:
            raise RuntimeApiError(f"HAProxy does not show the new certificate {change.path}")
        present.append(shown)


async def replace_map(connection: Connection, path: str) -> None:
    """Give a map the contents of its file. Raises RuntimeApiError."""
    wanted = _entries_of_file(path)
    live = maps.parse_shown(await connection.ask(f"show map {path}"))
    if not maps.difference(path, live, wanted):
        return
    if single := maps.single_command(path, live, wanted):
        await connection.obey(single)
    else:
        answer = await connection.obey(maps.prepare_command(path))
        for command in maps.version_commands(path, maps.created_version(answer), wanted):
            await connection.obey(command)
    if found := maps.difference(path, maps.parse_shown(await connection.ask(f"show map {path}")), wanted):
        raise RuntimeApiError(found)


async def known_contents(connection: Connection, contents: Contents, others: Sequence[Contents]) -> Contents:
    """Return the contents that a HAProxy of an earlier daemon certainly has; the digests of others are empty.

    `contents` are those that a configuration names, `others` those of the other configurations that HAProxy may have
    been given last: the earlier daemon may have ended during a change. Of a
    certificate HAProxy shows too little to tell.
    """
    certain = {
        path: digest if all(other.certificates.get(path) == digest for other in others) else ""
        for path, digest in contents.certificates.items()
    }
    known = {}
    for path, digest in contents.maps.items():
        live = maps.parse_shown(await connection.ask(f"show map {path}"))
        try:
            known[path] = "" if maps.difference(path, live, _entries_of_file(path)) else digest
        except RuntimeApiError:
            known[path] = ""
    return Contents(certain, known)


async def _check_new(connection: Connection, change: NewCertificate, others: Sequence[ShownCertificate]) -> None:
    """Raise RuntimeApiError if the order of certificates would decide which one HAProxy serves."""
    new = await _shown(connection, f"*{change.path}")
    if new is None:
        raise RuntimeApiError(f"HAProxy does not show the new contents of {change.path}")
    if name := certificates.shared_name(new, others):
        raise RuntimeApiError(f"another certificate has the name {name}, too, and a reload keeps their order")


async def _shown(connection: Connection, path: str) -> ShownCertificate | None:
    return certificates.parse_shown(await connection.ask(f"show ssl cert {path}"))


def _entries_of_file(path: str) -> tuple[maps.Entry, ...]:
    try:
        return maps.parse_map(Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RuntimeApiError(f"the map {path} cannot be set: {reason}") from None
