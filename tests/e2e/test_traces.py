"""Changes as traces, sent to a real collector, or to none."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from collectors import Collector, collecting
from daemons import RecordFiles, Starter
from traced import traced

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def test_a_change_is_one_trace_with_the_parts_of_each_consumer(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, collector: Collector
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    more = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20key", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    more |= {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
    daemon = traced(tmp_path, start_daemon, url, f"{collector.url}/base/", **more)
    (tmp_path / "fails").touch()
    before = time.time()
    write("web/b1", '{"host": "127.0.0.1", "port": 1001, "labels": {"token": "hunter2"}}')
    eventually_sync(lambda: daemon.consumer("two")["failures"] > 0, timeout=60)
    (tmp_path / "fails").unlink()
    eventually_sync(lambda: "change" in [each.name for each in collector.trace_of("web/b1")], timeout=60)
    spans = collector.trace_of("web/b1")
    (root,) = (each for each in spans if not each.parent)
    of = {(each.attributes.get("discovery.consumer"), each.name): each for each in spans}
    parts = {(name, part) for name in ("one", "two") for part in ("queue", "apply", "verify")}
    assert of.keys() == {(None, "change"), (None, "watch"), *parts}, "what the filter keeps away is not in it"
    assert root.attributes["discovery.services"] == ["web"]
    assert root.attributes["discovery.revision"] == daemon.consumer("one")["applied_revision"]
    assert of["one", "apply"].attributes["discovery.applied_revision"] == root.attributes["discovery.revision"]
    assert of["two", "queue"].attributes["discovery.failures"] > 0
    assert all(each.parent == of[name, "apply"].id for (name, part), each in of.items() if part == "verify")
    assert all(each.parent == root.id for (_, part), each in of.items() if part in ("watch", "queue", "apply"))
    assert before <= root.begun == of[None, "watch"].begun
    for name in ("one", "two"):
        assert of[None, "watch"].ended == of[name, "queue"].begun
        assert of[name, "queue"].ended == of[name, "apply"].begun
        assert of[name, "apply"].ended <= root.ended <= time.time()
    assert root.ended == of["two", "apply"].ended, "it lasts until the last consumer has applied the change"
    assert not any(b"hunter2" in body or b"1001" in body for body in collector.bodies)
    assert root.resource["service.name"] == "discovery"
    assert root.resource["deployment.environment"] == "test"
    path, headers = collector.requests[0]
    assert (path, headers["api-key"], headers["content-encoding"]) == ("/base/v1/traces", "a key", "gzip")
    assert headers["content-type"] == "application/x-protobuf"
    assert "a key" not in daemon.log


def test_the_end_of_a_daemon_sends_what_is_left(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, collector: Collector
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    daemon = traced(tmp_path, start_daemon, url, collector.url, OTEL_BSP_SCHEDULE_DELAY="600000")
    (tmp_path / "fails").touch()
    write("web/b1", "127.0.0.1:1001")
    eventually_sync(lambda: daemon.consumer("two")["failures"] > 0, timeout=60)
    assert daemon.stop() == 0
    assert {each.attributes.get("discovery.consumer") for each in collector.trace_of("web/b1")} == {None, "one"}


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "accepts and is silent"])
def test_a_dead_collector_costs_a_line_and_delays_neither_an_apply_nor_the_end(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, silent: bool
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if silent else free_port()
        more = {"OTEL_EXPORTER_OTLP_TIMEOUT": "300", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=hunter2"}
        daemon = traced(tmp_path, start_daemon, url, f"http://127.0.0.1:{port}", **more)
        for number in range(20):
            write(f"web/b{number}", f"127.0.0.1:{2000 + number}")
        eventually_sync(lambda: "traces cannot be sent" in daemon.log, timeout=60)
        eventually_sync(lambda: daemon.is_ready() and daemon.consumer("one")["lag_seconds"] == 0, timeout=60)
        assert daemon.get("/healthz")[0] == 200
        assert daemon.stop() == 0
    told = [line for line in daemon.log.splitlines() if "traces cannot be sent" in line]
    assert len(told) <= 2, daemon.log
    assert "hunter2" not in daemon.log
    assert "Traceback" not in daemon.log


def test_a_collector_that_returns_is_sent_to_again(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, collector: Collector
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    collector.answer = 400
    daemon = traced(tmp_path, start_daemon, url, collector.url)
    write("web/b1", "127.0.0.1:1001")
    eventually_sync(lambda: "the collector answers 400" in daemon.log, timeout=60)
    collector.answer = 200
    write("web/b2", "127.0.0.1:1002")
    eventually_sync(lambda: bool(collector.trace_of("web/b2")), timeout=60)
    eventually_sync(lambda: "traces are sent again after" in daemon.log, timeout=60)


def test_without_the_extra_a_line_names_it_and_nothing_is_imported_unless_asked_for() -> None:
    program = """
import sys
from structlog.testing import capture_logs
import structlog
from discovery.daemon.daemon import Daemon
from discovery.tracing.opening import open_traces
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry.sdk"] = None
with capture_logs() as lines:
    assert open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "1", structlog.get_logger()) is None
print(lines)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within(60), check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'discovery-framework[otel]'" in done.stdout
