"""Commands with faulty plugins: the fault has its place, and hides nothing else."""

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
    install(tmp_path, "listing", SOURCE, "listing-registry")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["services", "--registry", f"listing:///{fault}"]) == 0
    out, err = capfd.readouterr()
    assert "10.0.0.1:80" in out
    assert note in err


def test_a_broken_plugin_is_a_fault_of_each_instance_that_uses_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("def")
    config = tmp_path / "discovery.toml"
    config.write_text('[consumers.one]\nplugin = "./bad.py"\n[providers.two]\nplugin = "./bad.py"\n')
    assert main(["config", "check", "--offline", str(config)]) == 2
    places = [line.partition(": the plugin 'bad' (")[0] for line in capfd.readouterr().err.splitlines()]
    assert places == ["discovery: consumers.one", "discovery: providers.two"]


def test_a_preview_that_is_no_text_is_a_fault(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "silent.py"
    plugin.write_text(
        "from discovery import Consumer\n\nclass It(Consumer):\n    def apply(self, update): pass\n"
        "    def preview(self, update): pass\n"
    )
    assert main(["run", "--plugin", str(plugin), "--dry-run", "--registry", f"file://{tmp_path}"]) == 1
    assert "discovery: silent: TypeError: its preview returned None, and no text" in capfd.readouterr().err
