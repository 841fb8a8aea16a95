"""A daemon that has something to tell: a backend that is down, a rejected record, a consumer that fails on request."""

from pathlib import Path

import pytest
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync

PLUGIN = """
from pathlib import Path
from discovery import Consumer, Health, PluginConfig, hookimpl

class Options(PluginConfig):
    fails: Path
    ill: Path

class Follows(Consumer[Options]):
    Config = Options

    def apply(self, update):
        if self.config.fails.exists():
            raise OSError("the disk is full")

    def health(self):
        if self.config.ill.exists():
            return Health(ok=False, detail="it has a fever")
        return Health(down={"web/a": "it does not answer"})

    def inspect(self):
        return {"workers": [{"pid": 1, "name": "<b>one</b>"}]}

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> Daemon:
    """Return the daemon, which has listed; its consumer fails while the file `fails` exists, and is ill with `ill`."""
    url, write = file_registry
    plugin = tmp_path / "follows.py"
    plugin.write_text(PLUGIN)
    write("web/a", '{"host": "10.0.0.1", "port": 80, "labels": {"zone": "<script>alert(1)</script>"}}')
    write("web/bad", "nonsense")
    options = [word for name in ("fails", "ill") for word in ("--set", f"follows.{name}={tmp_path / name}")]
    daemon = start_daemon("--registry", url, "--plugin", str(plugin), *options)

    def has_listed() -> bool:
        # A consumer may tell what is down before the first listing, and a file of this age may be half written.
        status = daemon.get("/api/status")[1]
        return (status["backends"], status["down"], status["rejected"]) == (1, 1, 1)

    eventually_sync(has_listed, timeout=60)
    return daemon
