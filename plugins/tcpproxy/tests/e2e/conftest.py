"""Fixtures of tests that use the plugin by the commands of a user."""

import pytest
from ambassadors import Directory, directory, named, short_path, start_command
from daemons import Starter, file_registry, start_daemon, tmp_path
from proxies import Serve, proxy

from discovery.testing import free_port

from .serving import Served, ServeWeb

__all__ = ["directory", "file_registry", "named", "short_path", "start_command", "start_daemon", "tmp_path"]


@pytest.fixture
def serve_web(directory: Directory, start_daemon: Starter, named: Serve) -> ServeWeb:
    """Start daemons that serve `web` with one backend, `one`, on a free port."""

    def serve(*assignments: str) -> Served:
        port = free_port()
        directory.put("web", named("one").port)
        return Served(port, proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", *assignments))

    return serve
