"""Commands on a registry of a plugin: what the registry has told counts, whatever else the plugin does."""

from pathlib import Path

import pytest
from third_party import install

from discovery.cli import main

SOURCE = """
import asyncio
import threading
from discovery import hookimpl
from discovery.registry import Reset

class Listing:
    def __init__(self, url):
        self.fault = url.path.strip("/")

    async def watch(self):
        yield Reset(1, {"web/a": b"10.0.0.1:80"})
        await asyncio.Event().wait()

    async def open_lease(self, owner, ttl):
        raise ValueError("no lease here")

    async def close(self):
        if self.fault == "raises":
            raise ValueError("it cannot")
        threading.Event().wait()

@hookimpl
def discovery_register_registries(register):
    register("listing", Listing)
"""


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("raises", "the registry was not closed in order: the plugin of the registry raises ValueError: it cannot"),
        ("blocks", "the registry was not closed in order: the plugin of the registry blocks: its event loop has run"),
    ],
)
def test_a_registry_that_cannot_be_closed_hides_no_result(
    fault: str, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("discovery.hosting.registries.CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("discovery.hosting.registries.LOOK_SECONDS", 0.1)
    install(tmp_path, "listing", SOURCE, "listing-registry")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["services", "--registry", f"listing:///{fault}"]) == 0
    out, err = capfd.readouterr()
    assert "10.0.0.1:80" in out
    assert note in err
