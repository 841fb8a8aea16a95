"""Relays of TCP connections, by which containers reach a server of the tests on loopback."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from discovery.testing import free_port, require_program


@contextmanager
def relayed(address: str, port: int) -> Iterator[str]:
    """Relay connections to a free port of `address` to `port` on loopback, and return the HOST:PORT to connect to."""
    free = free_port()
    listen = f"TCP-LISTEN:{free},bind={address},fork,reuseaddr"
    relay = subprocess.Popen([require_program("socat", wheel=False), listen, f"TCP:127.0.0.1:{port}"])
    yield f"{address}:{free}"
    relay.kill()
    relay.wait()
