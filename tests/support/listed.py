"""A third-party provider that finds what a file lists, for daemons that tests run; fixtures that modules import."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from discovery.registry import open_registry
from discovery.testing import contents

LISTED = """
import asyncio, dataclasses, json, time
from pathlib import Path
from discovery import (
    Backend, Candidate, CannotStartError, Check, Inventory, Outcome, PluginConfig, Provider, Verdict, hookimpl
)

class Options(PluginConfig):
    path: Path
    label: str = ""
    origin: str = ""

@dataclasses.dataclass(frozen=True)
class Says:
    verdict: str

    async def __call__(self, backend):
        return Outcome(Verdict(self.verdict), f"says {self.verdict}")

class Listed(Provider[Options]):
    Config = Options

    async def setup(self):
        if self.config.label == "never":
            raise CannotStartError("there is nothing here to look at")

    async def discover(self):
        told = None
        while True:
            if self.config.path.with_suffix(".blocks").exists():
                time.sleep(60)
            text = self.config.path.read_text()
            if text != told:
                told = text
                yield self.inventory(json.loads(text))
            await asyncio.sleep(0.02)

    def inventory(self, document):
        labels = {"label": self.config.label} if self.config.label else {}
        return Inventory(
            tuple(
                Candidate(
                    Backend("web", id, "10.0.0.1", port, labels=labels),
                    (Check(Says(verdict), interval=0.05),) if verdict else (),
                    self.config.origin,
                )
                for id, port, verdict in document["found"]
            ),
            document.get("problems", {}),
        )

@hookimpl
def discovery_register_providers(register):
    register("listed", Listed)
"""
COPIES = """
from pathlib import Path
from discovery import Consumer, PluginConfig, Update, hookimpl

class Options(PluginConfig):
    path: Path

class Copies(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        temporary = self.config.path.with_suffix(".new")
        temporary.write_text(" ".join(backend.address for backend in update.snapshot.backends()))
        temporary.replace(self.config.path)

@hookimpl
def discovery_register_consumers(register):
    register("copies", Copies)
"""


@pytest.fixture
def listed(install_plugin: Callable[..., None], tmp_path: Path) -> "Found":
    install_plugin("listed", LISTED)
    return Found(tmp_path / "found.json")


class Found:
    """What the provider `listed` finds: (id, port, verdict of its check, or "" for no check)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.option = f"listed.path={path}"

    def __call__(self, *found: tuple[str, int, str], **problems: str) -> None:
        write(self.path, json.dumps({"found": found, "problems": problems}))

    def table(self, name: str = "listed", **keys: Any) -> str:
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"path": str(self.path), **keys}.items()]
        return "\n".join((f'[providers.{name}]\nplugin = "listed"', *lines, ""))


def write(path: Path, text: str) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
    return path


@pytest.fixture(params=["file", "etcd"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "file":
        return str(request.getfixturevalue("file_registry")[0])
    return str(request.getfixturevalue("etcd").url)


def registered(url: str) -> dict[str, dict[str, Any]]:
    """What stands in the registry now, by key."""

    async def read() -> dict[str, bytes]:
        registry = open_registry(url)
        try:
            return await contents(registry)
        finally:
            await registry.close()

    return {key: json.loads(value) for key, value in asyncio.run(read()).items()}


def addresses(url: str) -> dict[str, str]:
    return {key: f"{record['host']}:{record['port']}" for key, record in registered(url).items()}
