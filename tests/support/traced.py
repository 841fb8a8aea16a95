"""A daemon whose changes are traced, with consumers that a test makes fail."""

from pathlib import Path

from daemons import Daemon, Starter

from discovery.testing import eventually_sync

PLUGIN = """
from pathlib import Path
from discovery import Consumer, PluginConfig, hookimpl

class Options(PluginConfig):
    path: Path

class It(Consumer[Options]):
    Config = Options
    verify_seconds = 0.0001

    def apply(self, update):
        if self.config.path.exists():
            raise OSError("the password is hunter2")

@hookimpl
def discovery_register_consumers(register):
    register("it", It)
"""


def traced(tmp_path: Path, start: Starter, url: str, endpoint: str, **more: str) -> Daemon:
    """Start a daemon with two consumers, one of which fails while the file `fails` exists."""
    plugin, config = tmp_path / "it.py", tmp_path / "discovery.toml"
    plugin.write_text(PLUGIN)
    config.write_text(f"""
[consumers.one]
plugin = "{plugin}"
path = "{tmp_path / "never"}"
[consumers.two]
plugin = "{plugin}"
path = "{tmp_path / "fails"}"
[consumers.databases]
plugin = "{plugin}"
path = "{tmp_path / "never"}"
filter = {{ services = "db" }}
""")
    start.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}
    daemon = start("--registry", url, "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    return daemon
