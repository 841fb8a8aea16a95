"""A provider that keeps its contract, from which tests derive providers with a single fault."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from discovery import Backend, Candidate, Check, Inventory, Outcome, PluginConfig, Provider
from discovery.testing import ProviderContract


class Options(PluginConfig):
    directory: Path


@dataclass(frozen=True)
class Fine:
    """A probe that passes."""

    async def __call__(self, backend: Backend) -> Outcome:
        return Outcome()


class Directory(Provider[Options]):
    """Finds a backend for each file in a directory: `NAME` with its port in it."""

    Config = Options
    checks: ClassVar[tuple[Check, ...]] = (Check(Fine()),)
    pause: ClassVar[float] = 0.01
    """Seconds between two looks."""

    def backend(self, name: str, port: int) -> Backend:
        return Backend("web", name, "127.0.0.1", port)

    def look(self) -> Inventory:
        candidates, problems = [], {}
        for path in sorted(self.config.directory.iterdir()):
            try:
                text = path.read_text()
            except FileNotFoundError:
                return self.look()  # the file alone is gone, or else this raises
            if text.isdigit():
                candidates.append(Candidate(self.backend(path.name, int(text)), self.checks))
            else:
                problems[f"file {path.name}"] = f"{text!r} is no port"
        return Inventory(tuple(candidates), problems)

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        seen = None
        while True:
            if (now := self.look()) != seen:
                seen = now
                yield now
            await asyncio.sleep(self.pause)


class YieldsEachLook(Directory):
    """Yields what it finds at each look, also what it found before."""

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        while True:
            yield self.look()
            await asyncio.sleep(self.pause)


class DirectoryContract(ProviderContract):
    provider = Directory
    patience = 5.0

    def setup_method(self, method: object) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self._temporary.name) / "found"
        self.directory.mkdir()
        self.config = {"directory": self.directory}

    def teardown_method(self, method: object) -> None:
        self._temporary.cleanup()

    def arrange(self, world: int) -> None:
        for name, text in (("a", "80"), ("b", "81"), ("c", "no port")) if world == 0 else (("b", "82"),):
            made = self.directory.parent / name
            made.write_text(text)
            made.rename(self.directory / name)
        if world == 1:
            (self.directory / "a").unlink(missing_ok=True)

    def blind(self) -> AbstractContextManager[None]:
        @contextmanager
        def away() -> Iterator[None]:
            self.directory.rename(self.directory.parent / "away")
            yield
            (self.directory.parent / "away").rename(self.directory)

        return away()
