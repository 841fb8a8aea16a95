"""Shared by every test of the core and the plugins: a run does not depend on how it is started."""

import os
import signal

import pytest

from discovery.dispositions import reset_inherited


def pytest_configure(config: pytest.Config) -> None:
    """Undo what nohup and a shell's background jobs ignore, and have patience if nothing limits the tests' time."""
    if hasattr(config, "workerinput"):
        return  # it has inherited both
    reset_inherited()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("timeout", None) == 0:
        os.environ.setdefault("DISCOVERY_TEST_PATIENCE", "10")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have `--timeout=0` mean that no test has a limit, also those that name one of their own."""
    if config.getoption("timeout", None) == 0:
        for node in {node for item in items for node in item.listchain()}:
            node.own_markers[:] = [marker for marker in node.own_markers if marker.name != "timeout"]
