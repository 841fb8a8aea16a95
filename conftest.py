"""Shared by every test of the core and the plugins: a run does not depend on how it is started."""

import asyncio
import gc
import inspect
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from sampling import sample_costly

from discovery.system.dispositions import reset_inherited

pytest.register_assert_rewrite("discovery.testing")

FEW_EXAMPLES = 20
"""Of a property that does not say how many it takes, in runs that leave cases out; else there are hypothesis's 100."""
FEW_PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)
"""Phases in these runs: an explanation of a failure needs a trace of every line of every example."""

# No deadline: a busy machine is no defect. In CI the examples are the same on every run, so that a red run stays red.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """Undo what nohup and a shell's background jobs ignore, and have patience if nothing limits the tests' time.

    Bytecode is kept, whatever the environment says: thousands of processes are started, each of which would compile.
    """
    profile = settings.get_profile("ci" if os.environ.get("CI") else "local")
    short = "not exhaustive" in config.option.markexpr
    settings.register_profile(
        "chosen",
        profile,
        max_examples=FEW_EXAMPLES if short else profile.max_examples,
        phases=FEW_PHASES if short else profile.phases,
    )
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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect garbage neither during the collection of the tests nor, later, among what the collection has made.

    Each process that tests collects all tests: hundreds of thousands of objects, which stay until its end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave half of the costly tests to `make test-all`.

    `--timeout=0` means that no test has a limit, also those that name one of their own.
    """
    sample_costly(items)
    if config.getoption("timeout", None) == 0:
        for node in {node for item in items for node in item.listchain()}:
            node.own_markers[:] = [marker for marker in node.own_markers if marker.name != "timeout"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test on an event loop of its own. Fixtures are set up and torn down outside that loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames  # noqa: SLF001 - as pytest takes the arguments of a test
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_report_header() -> str:
    """Return the header line with the seed that chooses the tested cases."""
    return f"DISCOVERY_TEST_SEED={os.environ.get('DISCOVERY_TEST_SEED', '0')}"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build or find every version of etcd that a collected test needs: a build takes longer than a test may."""
    calls = (getattr(item, "callspec", None) for item in session.items)
    if versions := {call.params["etcd_program"] for call in calls if call and "etcd_program" in call.params}:
        from etcd_versions import prepare

        prepare(versions)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run in CI if a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.section("skipped, which fails in CI", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    """Restore structlog's defaults after each test: every command configures structlog."""
    yield
    structlog.reset_defaults()
