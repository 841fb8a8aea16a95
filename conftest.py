"""Shared by every test of the core and the plugins: a run does not depend on how it is started."""

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from discovery.system.dispositions import reset_inherited

FEW_EXAMPLES = 30
"""Of a property that does not say how many it takes, in runs that leave cases out; else there are hypothesis's 100."""

# No deadline: a busy machine is no defect. In CI the examples are the same on every run, so that a red run stays red.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """Undo what nohup and a shell's background jobs ignore, and have patience if nothing limits the tests' time.

    Bytecode is kept, whatever the environment says: thousands of processes are started, each of which would compile.
    """
    profile = settings.get_profile("ci" if os.environ.get("CI") else "local")
    short = "not exhaustive" in config.option.markexpr
    settings.register_profile("chosen", profile, max_examples=FEW_EXAMPLES if short else profile.max_examples)
    settings.load_profile("chosen")
    if hasattr(config, "workerinput"):
        return  # it has inherited all of this
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
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
