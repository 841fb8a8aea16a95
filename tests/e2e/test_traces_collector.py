"""Traces of a real daemon, as a real Collector of OpenTelemetry accepts them: `make collector` builds it."""

import signal
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trustme
from collector_build import NAME
from daemons import RecordFiles, Starter
from go_toolchain import cached
from making import require_made
from real_collector import Sink, receiving, running
from traced import traced

from discovery.testing import eventually_sync

pytestmark = [pytest.mark.warm, pytest.mark.exhaustive, pytest.mark.timeout(300)]

INTERNAL = 1
ERROR = 2


@pytest.fixture(scope="module")
def program() -> Path:
    return require_made("otelcol", cached(NAME), "make collector")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with receiving() as sink:
        yield sink


def certificates(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The `tls` of the Collector, which asks for a certificate, and the variables of the daemon."""
    authority = trustme.CA()
    files = {name: str(directory / f"{name}.pem") for name in ("ca", "server", "client", "key", "server_key")}
    authority.cert_pem.write_to_path(files["ca"])
    for name, key, host in (("server", "server_key", "localhost"), ("client", "key", "daemon.example.org")):
        issued = authority.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(files[name])
        issued.private_key_pem.write_to_path(files[key])
    tls = {"cert_file": files["server"], "key_file": files["server_key"], "client_ca_file": files["ca"]}
    names = {"CERTIFICATE": "ca", "CLIENT_CERTIFICATE": "client", "CLIENT_KEY": "key"}
    return {"tls": tls}, {f"OTEL_EXPORTER_OTLP_{name}": files[file] for name, file in names.items()}


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "gzip over mTLS"])
def test_a_collector_accepts_each_part_of_a_trace(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, program: Path, sink: Sink, over_tls: bool
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    http, more = certificates(tmp_path) if over_tls else ({}, {})
    if over_tls:
        more |= {
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
    with running(program, tmp_path / "otelcol", sink, **http) as collector:
        endpoint = f"{'https://localhost' if over_tls else 'http://127.0.0.1'}:{collector.port}"
        daemon = traced(tmp_path, start_daemon, url, endpoint, **more)
        write("web/b1", "127.0.0.1:1001")
        eventually_sync(lambda: len(sink.trace_of("web/b1")) == 8, timeout=60)
        assert "error" not in collector.log.lower()
        spans = sink.trace_of("web/b1")
        (root,) = (each for each in spans if not each.get("parentSpanId"))
        of = {(each["attributes"].get("discovery.consumer"), each["name"]): each for each in spans}
        parts = {(name, part) for name in ("one", "two") for part in ("queue", "apply", "verify")}
        assert of.keys() == {(None, "change"), (None, "watch"), *parts}
        for (name, part), each in of.items():
            above = {"change": None, "verify": of.get((name, "apply"))}.get(part, root)
            assert each.get("parentSpanId", "") == ("" if above is None else above["spanId"])
            assert (len(each["traceId"]), len(each["spanId"]), each["kind"]) == (32, 16, INTERNAL)
            assert int(root["startTimeUnixNano"]) <= int(each["startTimeUnixNano"]) <= int(each["endTimeUnixNano"])
            assert int(each["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
            assert each["status"] == {}
            assert each["scope"] == {"name": "discovery", "version": version("discovery-framework")}
        assert root["attributes"]["discovery.revision"] == daemon.consumer("one")["applied_revision"]
        resource = root["resource"]
        assert resource["service.name"] == "discovery"
        assert resource["service.version"] == version("discovery-framework")
        assert uuid.UUID(resource["service.instance.id"]).version == 4
        assert resource["telemetry.sdk.language"] == "python"
        assert resource.get("deployment.environment.name") == ("test" if over_tls else None)
        assert daemon.stop() == 0


def test_a_change_that_is_late_is_an_error_and_the_late_part_follows(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, program: Path, sink: Sink
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")
    with running(program, tmp_path / "otelcol", sink) as collector:
        traced(tmp_path, start_daemon, url, f"http://127.0.0.1:{collector.port}")
        (tmp_path / "fails").touch()
        write("web/b1", "127.0.0.1:1001")

        def roots() -> list[dict[str, Any]]:
            return [each for each in sink.trace_of("web/b1") if each["name"] == "change"]

        eventually_sync(lambda: bool(roots()), timeout=120)
        assert roots()[0]["status"] == {"code": ERROR, "message": "not applied within 60 s: two"}
        (tmp_path / "fails").unlink()
        late = ("two", "apply")
        eventually_sync(
            lambda: late in {(s["attributes"].get("discovery.consumer"), s["name"]) for s in sink.trace_of("web/b1")},
            timeout=60,
        )
        assert len(roots()) == 1


def test_a_collector_that_refuses_hangs_and_dies_costs_a_line_each(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, program: Path, sink: Sink
) -> None:
    url, write = file_registry
    write("web/first", "127.0.0.1:1")

    def applied(number: int) -> bool:
        backends = daemon.get("/api/status")[1]["backends"]
        return bool(daemon.consumer("one")["lag_seconds"] == 0 and backends == number + 2)

    def told(words: str) -> int:
        return sum("traces cannot be sent" in line and words in line for line in daemon.log.splitlines())

    sink.answer, sink.headers = 503, {"Retry-After": "1"}
    with running(program, tmp_path / "otelcol", sink) as collector:
        daemon = traced(
            tmp_path, start_daemon, url, f"http://127.0.0.1:{collector.port}", OTEL_EXPORTER_OTLP_TIMEOUT="500"
        )
        for number in range(100):
            write(f"web/b{number}", f"127.0.0.1:{2000 + number}")
        eventually_sync(lambda: told("the collector answers 503") == 1 and applied(99), timeout=60)
        sink.answer = 200
        write("web/b100", "127.0.0.1:2100")
        eventually_sync(lambda: applied(100) and "traces are sent again" in daemon.log, timeout=60)
        collector.process.send_signal(signal.SIGSTOP)
        write("web/b101", "127.0.0.1:2101")
        eventually_sync(lambda: told("has not answered in time") == 1 and applied(101), timeout=60)
        port = collector.port
    write("web/b102", "127.0.0.1:2102")
    eventually_sync(lambda: told("Connect") == 1 and applied(102), timeout=60)
    with running(program, tmp_path / "again", sink, port=port):
        number = 103

        def arrived() -> bool:
            nonlocal number
            number += 1
            write(f"web/b{number}", f"127.0.0.1:{2000 + number}")
            return any(sink.trace_of(f"web/b{each}") for each in range(103, number))

        eventually_sync(arrived, timeout=60)
        assert daemon.stop() == 0
    assert told("") <= 4, daemon.log
    assert "Traceback" not in daemon.log
