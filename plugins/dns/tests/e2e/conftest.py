"""Fixtures of tests that use the plugin by the commands of a user."""

import pytest
from daemons import RecordFiles, Starter, file_registry, start_daemon, tmp_path

from discovery.testing import eventually_sync, free_port

__all__ = ["file_registry", "start_daemon", "tmp_path"]


@pytest.fixture
def port(start_daemon: Starter, file_registry: RecordFiles) -> int:
    """The port of a server for the registry."""
    url, put = file_registry
    put("web/a", "10.0.0.1:80")
    put("web/b", "[2001:db8::1]:81")
    port = free_port()
    daemon = start_daemon(
        "--registry", url, "--plugin", "dns", "--set", f"dns.listen=127.0.0.1:{port}", "--set", "dns.ttl=1"
    )
    eventually_sync(daemon.is_ready)
    return port
