"""The file registry's directory as an editor writes it, a tree scans it, and a watch tells it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from discovery.registry.file import FileRegistry
from discovery.registry.file.directory import held
from discovery.registry.file.tree import Listing, Tree
from discovery.testing import Follower, following

PLAIN = b"10.0.0.1:80"


def write(root: Path, key: str, value: bytes = PLAIN) -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def scan(some: Tree, root: Path) -> Listing:
    with held(root) as descriptor:
        return some.scan(descriptor)


def follow(root: Path, check: Callable[[Follower], Awaitable[None]]) -> None:
    async def run() -> None:
        async with following(FileRegistry(root)) as watch:
            await check(watch)

    asyncio.run(run())
