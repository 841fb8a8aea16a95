"""A registry of files, for a single machine and for GitOps: `<directory>/<service>/<id>`, without a server."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from discovery.errors import AccessDeniedError, ConfigError
from discovery.registry.base import RegistryEvent
from discovery.registry.file.directory import held
from discovery.registry.file.follower import DirectoryFollower
from discovery.registry.file.lease import FileLease
from discovery.registry.url import RegistryURL
from discovery.system.asyncio_tools import wait_for_event


class FileRegistry:
    """A registry in a directory, whose files leases, an editor or git may write.

    A record with a TTL expires that many seconds after the last modification of its file. The first process that
    notices the expiry and has the permission removes the file. A record without a TTL is static.
    """

    def __init__(self, root: Path) -> None:
        """Use the directory `root`, which need not exist yet."""
        self._root = root
        self._leases: WeakSet[FileLease] = WeakSet()

    @classmethod
    def from_url(cls, url: RegistryURL) -> "FileRegistry":
        """Return the registry for the URL `file:///DIRECTORY`. Raises ConfigError for any other URL or an option."""
        if url.endpoints or url.username is not None or not url.path.strip("/"):
            raise ConfigError(f"registry {url} names no directory: write file:///DIRECTORY, with three slashes")
        if "\0" in url.path:
            raise ConfigError("the file registry's directory has a zero byte in its name")
        if url.options:
            raise ConfigError(f"registry {url}: the file registry has no option {min(url.options)!r}, nor any other")
        return cls(Path(url.path))

    async def watch(self) -> AsyncGenerator[RegistryEvent, None]:
        """See `Registry.watch`. All changes between two scans of the directory have the same revision."""
        loop = asyncio.get_running_loop()
        hinted = asyncio.Event()

        def hint() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(hinted.set)

        follower = DirectoryFollower(self._root, hint)
        try:
            while True:
                hinted.clear()
                result = await asyncio.to_thread(follower.scan)
                for event in result.events:
                    yield event
                await asyncio.sleep(result.rest)
                await wait_for_event(hinted, result.again)
        finally:
            await asyncio.to_thread(follower.close)

    async def open_lease(self, owner: str, ttl: float) -> FileLease:
        """See `Registry.open_lease`."""
        await asyncio.to_thread(self._check)
        lease = FileLease(self._root, owner, ttl)
        self._leases.add(lease)
        return lease

    async def close(self) -> None:
        """See `Registry.close`."""
        for lease in self._leases:
            lease.abandon()

    def _check(self) -> None:
        with held(self._root):
            if not os.access(self._root, os.W_OK | os.X_OK):
                raise AccessDeniedError(f"cannot write to the registry directory {self._root}: permission denied")
