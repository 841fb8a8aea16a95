"""A fleet for tests: daemons on one etcd, at prefixes of the test's own."""

import json
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemons import DISCOVERY, Daemon, Starter

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, within

FOLLOWS = """
from pathlib import Path
from discovery import Consumer, Health, PluginConfig, hookimpl

class Options(PluginConfig):
    ill: Path
    seen: Path | None = None

class Follows(Consumer[Options]):
    Config = Options

    def apply(self, update):
        if self.config.seen is not None:
            with self.config.seen.open("a") as file:
                print(*update.snapshot.services, *(each.key for each in update.snapshot.rejected), sep="\\n", file=file)

    def health(self):
        return Health(ok=False, detail="it has a fever") if self.config.ill.exists() else Health()

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""


class Fleet:
    """Starts daemons that announce themselves, each with a consumer that a file makes ill."""

    def __init__(self, directory: Path, start: Starter, etcd: EmbeddedEtcd) -> None:
        self.directory = directory
        self.start = start
        self.etcd = etcd
        self.top = f"/{uuid.uuid4().hex}"
        self.registry = f"{etcd.url}{self.top}/services"
        self.plugin = directory / "follows.py"
        self.plugin.write_text(FOLLOWS)

    def __call__(self, name: str, *arguments: str, admin: str | None = None, **settings: object) -> Daemon:
        """Start a daemon; `settings` are further keys of its file."""
        config = self.directory / f"{name}.toml"
        keys = {"announce": True, "fleet_prefix": f"{self.top}/fleet", **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        lines += [
            "[consumers.follows]",
            f"plugin = {json.dumps(str(self.plugin))}",
            f"ill = {json.dumps(self.ill(name))}",
        ]
        lines += [f"seen = {json.dumps(str(self.directory / f'{name}.seen'))}"]
        config.write_text("\n".join(lines))
        return self.start("--registry", self.registry, "--config", str(config), *arguments, admin=admin)

    def ill(self, name: str) -> str:
        return str(self.directory / f"{name}.ill")

    def config(self, name: str) -> str:
        return str(self.directory / f"{name}.toml")

    def put(self, key: str, record: str | Mapping[str, object]) -> None:
        """Write a record of a daemon, as anybody may who can write to the registry."""
        value = record if isinstance(record, str) else json.dumps(record)
        self.etcd.ctl("put", f"{self.top}/fleet/daemons/{key}", value)

    def keys(self) -> list[str]:
        return self.etcd.ctl("get", "--prefix", "--keys-only", f"{self.top}/fleet/").split()


def rows(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The fleet as a daemon tells it, by address."""
    status, document = daemon.get("/api/fleet")
    assert status == 200, document
    return {each["address"]: each for each in document["daemons"]}


def await_states(daemon: Daemon, states: Mapping[str, str], timeout: float = 60) -> dict[str, dict[str, Any]]:
    """Wait until the daemon tells of these daemons alone, each in this state; return the rows."""
    found: dict[str, dict[str, Any]] = {}

    def told() -> bool:
        found.clear()
        found.update(rows(daemon))
        return {address: each["state"] for address, each in found.items()} == dict(states)

    eventually_sync(told, f"the states {states}, and not {found}", timeout=timeout)
    return found


def run_fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [*DISCOVERY, "fleet", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=within(60), check=False)


def address() -> str:
    return f"127.0.0.1:{free_port()}"


def record(port: int, **fields: object) -> dict[str, object]:
    """The record of a daemon, as a daemon would write it."""
    return {
        "host": "127.0.0.1",
        "port": port,
        "machine": "elsewhere",
        "roles": "consumer",
        "run_dir": "/run/discovery",
        "scheme": "http",
        "since": "2026-01-31T12:00:00Z",
        "version": "1.2.3",
        **fields,
    }
