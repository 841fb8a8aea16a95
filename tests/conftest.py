"""Shared by the core's tests: readable assertions in the testing kit, versions of etcd, and logging as it comes."""

import os
from collections.abc import Iterator

import pytest
import structlog

pytest.register_assert_rewrite("discovery.testing")


def pytest_report_header() -> str:
    """What chose the cases that are tested."""
    return f"DISCOVERY_TEST_SEED={os.environ.get('DISCOVERY_TEST_SEED', '0')}"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have every etcd that a test is going to run on: to build one takes longer than a test may."""
    calls = (getattr(item, "callspec", None) for item in session.items)
    if versions := {call.params["etcd_program"] for call in calls if call and "etcd_program" in call.params}:
        from etcd_versions import prepare

        prepare(versions)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was skipped, for whatever reason, is a red run: what is promised there was not shown."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.section("skipped, which fails in CI", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _logging_as_it_comes() -> Iterator[None]:
    """A test that configures structlog, as every command does, leaves it as it was for the next."""
    yield
    structlog.reset_defaults()
