"""A consumer and a provider of which each record is in another situation, for tests of `discovery explain`."""

PLUGIN = """
import asyncio, dataclasses
from pathlib import Path
from discovery.probes import TcpProbe
from discovery import (
    Backend, Candidate, Check, Consumer, Health, Inventory, LeftOut, Outcome, PluginConfig, Provider, Verdict, hookimpl
)

class Options(PluginConfig):
    fails: Path = Path("/nonexistent")
    blocks: Path = Path("/nonexistent")

class Follows(Consumer[Options]):
    Config = Options

    async def apply(self, update):
        self.snapshot = update.snapshot
        while self.config.blocks.exists():
            await asyncio.sleep(0.02)
        if self.config.fails.exists():
            raise OSError("the disk is full")

    def health(self):
        return Health(down={"web/down": "layer 4 timeout"})

    def explain(self, backends):
        left_out = {"left-out": [], "no-name": LeftOut("it has no name here")}
        return {each.key: left_out.get(each.id, [f"server {each.id} {each.address}"]) for each in backends}

@dataclasses.dataclass(frozen=True)
class Says:
    verdict: str

    async def __call__(self, backend):
        if self.verdict == "nothing":
            await asyncio.sleep(3600)
        return Outcome(Verdict(self.verdict), f"it says {self.verdict}")

class Finds(Provider[PluginConfig]):
    def discover(self):
        yield Inventory(tuple(
            Candidate(Backend("web", id, "10.0.0.9", 80), (Check(Says(verdict), interval=0.1, timeout=3600),))
            for id, verdict in (
                ("checked", "passing"), ("fails", "failing"), ("drained", "draining"), ("silent", "nothing"),
                ("taken", "passing"),
            )
        ) + (Candidate(Backend("web", "refuses", "127.0.0.1", 1), (Check(TcpProbe(), interval=0.1),)),))
        import time
        time.sleep(3600)

@hookimpl
def discovery_register_consumers(register):
    register("staged", Follows)

@hookimpl
def discovery_register_providers(register):
    register("staged", Finds)
"""
CONFIG = """
[consumers.all]
plugin = "{plugin}"
[consumers.blue]
plugin = "{plugin}"
filter = {{ services = ["web"], labels = {{ colour = "blue" }} }}
[consumers.failing]
plugin = "{plugin}"
fails = "{fails}"
filter = {{ services = "late" }}
[consumers.slow]
plugin = "{plugin}"
blocks = "{blocks}"
filter = {{ services = "late" }}
[consumers.broken]
plugin = "{broken}"
[consumers.edge]
plugin = "haproxy"
services.plane = {{ bind = "127.0.0.1:{port}", check = {{ interval = "200ms", fall = 1, rise = 1 }} }}
[consumers.names]
plugin = "dns"
listen = "127.0.0.1:{dns}"
services = ["plane", "last"]
[providers.finds]
plugin = "{plugin}"
"""
RECORDS = {
    "web/ok": "10.0.0.1:80",
    "web/bad": "nonsense",
    "web/odd": '{"host": "10.0.0.1", "port": 80, "haproxy_server_options": "check"}',
    "web/blue": '{"host": "10.0.0.1", "port": 80, "colour": "blue"}',
    "web/drains": '{"host": "10.0.0.1", "port": 80, "state": "draining"}',
    "web/zero": '{"host": "10.0.0.1", "port": 80, "weight": 0}',
    "web/named": "nowhere.invalid:80",
    "web/down": "10.0.0.1:80",
    "web/left-out": "10.0.0.1:80",
    "web/no-name": "10.0.0.1:80",
}
