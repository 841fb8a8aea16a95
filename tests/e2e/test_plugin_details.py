"""What the admin endpoint shows of a degraded consumer, and of a provider's own metrics and details."""

from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync

pytestmark = pytest.mark.warm

PLUGIN = """
import asyncio
from discovery import Candidate, Consumer, Health, Inventory, PluginConfig, Provider, Sample, hookimpl
from discovery.testing import backend

class Half(Consumer[PluginConfig]):
    def apply(self, update):
        pass

    def health(self):
        return Health(problems={"service web": "no port"})

class Counts(Provider[PluginConfig]):
    def discover(self):
        yield Inventory((Candidate(backend("db", "1")),))
        import time
        time.sleep(3600)

    def metrics(self):
        return [Sample("looks", 1)]

    def inspect(self):
        return {"looked": "everywhere"}

@hookimpl
def discovery_register_consumers(register):
    register("half", Half)

@hookimpl
def discovery_register_providers(register):
    register("half", Counts)
"""
CONFIG = """
[consumers.half]
plugin = "half"
filter = { services = "web" }
[providers.counts]
plugin = "half"
"""


def test_details_of_plugins(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    url, write = file_registry
    install_plugin("half", PLUGIN)
    write("web/a", "10.0.0.1:80")
    config = tmp_path / "discovery.toml"
    config.write_text(CONFIG)
    daemon = start_daemon("--registry", url, "--config", str(config))
    eventually_sync(lambda: daemon.is_ready() and daemon.consumer("half")["state"] == "degraded", timeout=20)
    status, health = daemon.get("/healthz")
    assert (status, health["status"], health["problems"]) == (200, "degraded", {})
    assert health["degraded"] == {"half": "service web: no port"}
    shown = daemon.consumer("half")
    assert (shown["healthy"], shown["problem"], shown["problems"]) == (True, None, {"service web": "no port"})
    told = daemon.get("/api/providers/counts")[1]
    assert (told["looked"], told["name"], told["state"]) == ("everywhere", "counts", "ok")
    assert daemon.get("/api/providers/none")[0] == 404
    metrics = daemon.get("/metrics")[1]
    assert 'discovery_half_looks_total{provider="counts"} 1.0' in metrics
    assert 'discovery_consumer_degraded{consumer="half"} 1.0' in metrics
    assert daemon.log.count("there is a problem") == 1
    assert daemon.stop() == 0
