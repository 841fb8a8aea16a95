"""The file registry's directory as an editor writes it, a tree scans it, and a watch tells it."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from discovery.codec import decode
from discovery.model import Rejected
from discovery.registry.file import FileRegistry
from discovery.registry.file.directory import held
from discovery.registry.file.tree import DirectoryListing, Tree
from discovery.testing import Follower, following

PLAIN = b"10.0.0.1:80"


def write(root: Path, key: str, value: bytes = PLAIN) -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def scan(some: Tree, root: Path) -> DirectoryListing:
    with held(root) as descriptor:
        return some.scan(descriptor)


def follow(root: Path, check: Callable[[Follower], Awaitable[None]]) -> None:
    async def run() -> None:
        async with following(FileRegistry(root)) as watch:
            await check(watch)

    asyncio.run(run())


def reasons(listing: DirectoryListing) -> dict[str, str]:
    """Why the records that are rejected are, by key."""
    decoded = {key: decode(key, value) for key, value in listing.records.items()}
    return {key: record.reason for key, record in decoded.items() if isinstance(record, Rejected)}


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Own everything in the directory, and be a user whom permissions concern."""
    if os.geteuid() != 0:
        yield
        return
    for place in (directory, *directory.rglob("*")):
        os.chown(place, 65534, 65534)
    for parent in directory.parents:
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
