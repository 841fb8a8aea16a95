"""An example of `examples/haproxy` or of a document, run as a user runs it: `discovery run --config` with HAProxy.

The configuration is the example's own, but for what a test must choose: addresses, ports, paths and times.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from daemons import Daemon, Starter, write_record

from discovery.testing import eventually_sync, free_port

EXAMPLES = Path(__file__).parents[4] / "examples" / "haproxy"
TIMEOUT = 60.0
"""Seconds that a condition is awaited. On an idle machine each comes true within a second."""
_BIND = re.compile(r'"(?:\*|127\.0\.0\.1):(\d+)"')
_CHECK_PORT = re.compile(r"(?<=[{ ]port = )\d+")
_INTERVAL = re.compile(r'(?<=interval = )"[0-9a-z]+"')
_REGISTRY = re.compile(r'(?<=\nurl = )"[^"]+"')
_CHANGES = re.compile(r'discovery_haproxy_changes_total\{[^}]*way="([a-z]+)"[^}]*\} ([0-9.]+)')


class Example:
    """An example, with a directory as its registry and free ports in place of those that the configuration names.

    `text` is the configuration. `replaced` has parts of it, such as paths, and what the test has in their place.
    """

    def __init__(
        self,
        text: str,
        start_daemon: Starter,
        binary: Path,
        directory: Path,
        replaced: Mapping[str, object] | None = None,
    ) -> None:
        self._text = text
        self._start_daemon = start_daemon
        self._binary = binary
        self._directory = directory
        self._registry = directory / "registry"
        self._registry.mkdir()
        self._replaced = replaced or {}
        named = {*_BIND.findall(self._text), *_CHECK_PORT.findall(self._text)}
        self.ports: dict[int, int] = {int(port): free_port() for port in named}
        """The port in use for each port that the configuration names."""
        self.daemon: Daemon

    def register(
        self, service: str, name: str, address: str, *, weight: int = 1, state: str = "active", **labels: str
    ) -> None:
        """Write the record of a backend. The daemon follows."""
        host, _, port = address.rpartition(":")
        record = {"host": host, "port": int(port), "weight": weight, "state": state, "labels": labels}
        self.write(f"{service}/{name}", json.dumps(record))

    def write(self, key: str, value: str) -> None:
        """Write a record as it is. The daemon follows."""
        write_record(self._registry, key, value)

    def withdraw(self, service: str, name: str) -> None:
        """Remove the record of a backend. The daemon follows."""
        (self._registry / service / name).unlink()

    def run(self) -> None:
        """Run the example, with a check every 200 ms, and with patience for the answers to the checks."""
        text = _BIND.sub(lambda found: f'"127.0.0.1:{self.ports[int(found[1])]}"', self._text)
        text = _CHECK_PORT.sub(lambda found: str(self.ports[int(found[0])]), text)
        text = _INTERVAL.sub('"200ms"', text)
        text = _REGISTRY.sub(f'"file://{self._registry}"', text)
        for found, ours in self._replaced.items():
            assert found in text, found
            text = text.replace(found, str(ours))
        file = self._directory / "discovery.toml"
        file.write_text(text)
        services = tomllib.loads(text)["consumers"]["edge"]["services"]
        options = [f"binary={self._binary}", *(f"services.{each}.timeouts.check=10s" for each in services)]
        assignments = [part for each in options for part in ("--set", f"edge.{each}")]
        self.daemon = self._start_daemon("--config", str(file), *assignments)
        eventually_sync(self.daemon.is_ready, "the daemon to serve", TIMEOUT)

    @property
    def version(self) -> tuple[int, ...]:
        """Version of the HAProxy that was started."""
        found = re.search(r"HAProxy started .*version=([0-9.]+)", self.daemon.log)
        assert found is not None
        return tuple(map(int, found[1].split(".")))

    def changes(self) -> dict[str, int]:
        """Return the number of changes of HAProxy since its start, by `runtime` and `reload`."""
        return {way: int(float(count)) for way, count in _CHANGES.findall(self.daemon.get("/metrics")[1])}

    def await_changes(self, before: Mapping[str, int], count: int) -> None:
        """Wait for so many changes of HAProxy, by either way, since `before` at least."""
        most = sum(before.values()) + count
        eventually_sync(lambda: sum(self.changes().values()) >= most, f"{count} changes", TIMEOUT)

    def assert_no_reload(self, before: Mapping[str, int], changes: int = 1) -> None:
        """Wait for so many changes of HAProxy since `before` at least, and assert that none was a reload."""
        eventually_sync(lambda: self.changes()["runtime"] >= before["runtime"] + changes, "changes", TIMEOUT)
        assert self.changes()["reload"] == before["reload"]
