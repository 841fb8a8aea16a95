"""The contract of consumers, applied to the consumer `haproxy`."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from discovery.testing import ConsumerContract, free_port, require_program
from discovery_haproxy.consumer import HAProxyConsumer


class TestHAProxyConsumer(ConsumerContract):
    consumer = HAProxyConsumer
    config: ClassVar[Mapping[str, Any]] = {"services": {"web": {"bind": f"127.0.0.1:{free_port()}"}}}

    def setup_method(self) -> None:
        require_program("haproxy")

    def world(self, run_dir: Path) -> object:
        """Return the configuration file's text and the generation that HAProxy reports."""
        return (run_dir / "haproxy.cfg").read_text(), _description(run_dir / "stats.sock")

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


def _description(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"show info\n")
        with client.makefile() as answer:
            [description] = [line for line in answer if line.startswith("description: ")]
    return description
