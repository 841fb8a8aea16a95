"""The record of what HAProxy has accepted, in the state directory, with copies of the files that it was accepted with.

accepted.json        the configuration, and the digest of each file
servers/SERVICE.json the backends that the service's own lines name
files/DIGEST/NAME    the contents of a file or of a directory of certificates, mode 600
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from discovery import Backend, RecordError
from discovery.toolkit import backend_document, backend_of, write_atomically
from discovery_haproxy.deployment.digests import MISSING, FileDigests, beside, files_at
from discovery_haproxy.fallback.composing import Accepted
from discovery_haproxy.options.config import HAProxyConfig

_VERSION = 1
"""The format of the records: records of another version are not read."""
_MOST_BYTES = 16 * 1024 * 1024
"""Largest file or directory of which a copy is kept; certificates take some kilobytes each."""


class Records:
    """The record of one instance. An error of the disk is logged once, and costs the record alone."""

    def __init__(self, state_dir: Path, log: FilteringBoundLogger) -> None:
        """Store the arguments. No file is read or written."""
        self._directory = state_dir / "accepted"
        self._log = log
        self._digests = FileDigests()
        self._failed: str | None = None
        self._config: HAProxyConfig | None = None
        self._files: dict[Path, str] = {}
        self._servers: dict[str, tuple[Backend, ...]] = {}
        self._loaded = False
        self._written = False

    def accepted(self, present: Mapping[Path, str]) -> Accepted | None:
        """Return what was accepted; None if there is no record, or no record that can be read.

        `present` has the digests of files as they are now.
        """
        self._load()
        if self._config is None:
            return None
        copies = {}
        for path, digest in self._files.items():
            if present.get(path, self._digest(path)) != digest:
                copy = self._copy(path, digest)
                if self._digest(copy) == digest:
                    copies[path] = copy
        return Accepted(self._config, self._servers, copies)

    async def record(
        self,
        config: HAProxyConfig,
        files: Mapping[Path, str],
        kept: Iterable[Path],
        servers: Mapping[str, tuple[Backend, ...]],
    ) -> None:
        """Record what was accepted. Nothing is written if the record says so already.

        `files` has the digests of the files; those in `kept` stay as recorded before.
        """
        digests = {path: digest for path, digest in files.items() if digest != MISSING}
        digests |= {path: self._files[path] for path in kept if path in self._files}
        same = self._config is config or self._config == config
        # The memory serves even if the disk is full.
        former, self._servers = self._servers, dict(servers)
        self._config, self._files, self._loaded, was = config, digests, True, self._files
        if same and digests == was and former == servers and self._failed is None and self._written:
            return
        try:
            await asyncio.to_thread(self._write)
        except OSError as error:
            if error.strerror != self._failed:
                self._failed = error.strerror or type(error).__name__
                self._log.warning(
                    "accepted settings cannot be kept for a restart", path=str(self._directory), reason=self._failed
                )
        else:
            self._failed, self._written = None, True

    def _write(self) -> None:
        assert self._config is not None  # noqa: S101 - `record` has set the configuration
        _make_private(self._directory / "servers")
        kept = {path: digest for path, digest in self._files.items() if self._keep(path, digest)}
        document = {
            "version": _VERSION,
            "config": self._config.model_dump(mode="json", exclude_unset=True, by_alias=True),
            "files": {str(path): digest for path, digest in kept.items()},
        }
        _write_changed(self._directory / "accepted.json", document)
        named = set()
        for service, servers in self._servers.items():
            path = self._directory / "servers" / f"{hashlib.sha256(service.encode()).hexdigest()}.json"
            _write_changed(path, {"service": service, "servers": [*map(backend_document, servers)]})
            named.add(path)
        for path in (self._directory / "servers").iterdir():
            if path not in named:
                path.unlink(missing_ok=True)
        for path in (self._directory / "files").glob("*"):
            if path.name not in kept.values():
                shutil.rmtree(path, ignore_errors=True)

    def _keep(self, path: Path, digest: str) -> bool:
        """Copy a file, or a directory of files, unless there is a copy. Return True if there is one now."""
        copy = self._copy(path, digest)
        if self._digest(copy) == digest:
            return True
        sources = files_at(path)
        with suppress(FileNotFoundError):  # a file that has gone meanwhile is none that was accepted
            if sum(source.stat().st_size for source in sources) > _MOST_BYTES:
                return False
            shutil.rmtree(copy.parent, ignore_errors=True)
            directory = copy if path.is_dir() else copy.parent
            _make_private(directory)
            for source in (*sources, *([] if path.is_dir() else beside(path))):
                if source.is_file():
                    write_atomically(directory / source.name, source.read_bytes(), 0o600)
        return self._digest(copy) == digest

    def _copy(self, path: Path, digest: str) -> Path:
        return self._directory / "files" / digest / path.name

    def _digest(self, path: Path) -> str:
        return self._digests.read([path])[path]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        path = self._directory / "accepted.json"
        try:
            document = json.loads(path.read_bytes())
            if document["version"] != _VERSION:
                raise ValueError(f"version {document['version']!r} is unknown")
            self._config = HAProxyConfig.model_validate(document["config"])
            self._files = {Path(name): str(digest) for name, digest in document["files"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("the record of accepted settings cannot be read", path=str(path), reason=_reason(error))
            return
        for each in sorted((self._directory / "servers").glob("*.json")):
            with suppress(OSError, RecordError, ValueError, KeyError, TypeError, AttributeError):
                servers = json.loads(each.read_bytes())
                self._servers[servers["service"]] = tuple(map(backend_of, servers["servers"]))


def _make_private(path: Path) -> None:
    """Make a directory, and missing directories above, for this user alone."""
    if not path.is_dir():
        _make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _write_changed(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document, unless the file has the same contents already."""
    data = json.dumps(document).encode()
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    write_atomically(path, data, 0o600)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
