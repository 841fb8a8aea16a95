"""The contract of consumers, applied to the consumer `haproxy`."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from discovery.testing import ConsumerContract, free_port, require_program
from discovery_haproxy.consumer import HAProxyConsumer

_MAINTENANCE = 1
"""The bit of a server's administrative state."""


class TestHAProxyConsumer(ConsumerContract):
    consumer = HAProxyConsumer
    edited = ("servers.state",)  # a row that is forgotten becomes a comment by a single byte
    config: ClassVar[Mapping[str, Any]] = {"services": {"web": {"bind": f"127.0.0.1:{free_port()}"}}}

    def setup_method(self) -> None:
        require_program("haproxy")

    def world(self, run_dir: Path) -> object:
        """Return the configuration file's text, and the servers that HAProxy reports with their addresses."""
        return (run_dir / "haproxy.cfg").read_text(), _servers(run_dir / "stats.sock")

    @contextmanager
    def sabotage(self, run_dir: Path) -> Iterator[None]:
        """Put a directory in the place of the configuration file."""
        config, aside = run_dir / "haproxy.cfg", run_dir / "aside"
        config.rename(aside)
        config.mkdir()
        try:
            yield
        finally:
            config.rmdir()
            aside.rename(config)

    @pytest.mark.exhaustive
    def test_a_successor_goes_on(self) -> None:
        super().test_a_successor_goes_on()

    @pytest.mark.exhaustive
    def test_another_configuration_is_adopted_or_refused(self) -> None:
        super().test_another_configuration_is_adopted_or_refused()


def _servers(path: Path) -> set[tuple[str, ...]]:
    """Return section, name, host, user weight and port of each server that is not in maintenance."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"show servers state\n")
        with client.makefile() as answer:
            rows = [line.split() for line in answer if line[:1].isdigit() and len(line.split()) > 18]
    return {(row[1], row[3], row[4], row[7], row[18]) for row in rows if not int(row[6]) & _MAINTENANCE}
