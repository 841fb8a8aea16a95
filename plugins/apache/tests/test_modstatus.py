"""The status page: parsing, and the probe of a real Apache."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend, Outcome, Verdict
from discovery.probes import HttpProbe
from discovery.testing import eventually_sync, free_port
from discovery_apache.modstatus import Status, StatusProbe, evaluate, parse_status

from .conftest import Httpd

MakeHttpd = Callable[..., Httpd]


def look(port: int, path: str = "/server-status?auto", *, timeout: float = 5.0, load: bool = False) -> Outcome:
    probe = StatusProbe(HttpProbe(path), timeout, load)
    return asyncio.run(probe(Backend("web", "a", "127.0.0.1", port)))


@pytest.mark.parametrize(
    ("page", "means"),
    [
        ("BusyWorkers: 1\nIdleWorkers: 3\nScoreboard: W___", Status(3, 1)),
        ("BusyWorkers: 1\r\nIdleWorkers: 3\r\nProcesses: 2\r\nStopping: 1\r\n", Status(3, 1, 2, 1)),
        ("Scoreboard: W_K_..", Status(2, 2)),
        ("BusyWorkers: 1\nIdleWorkers: 3\nIdleWorkers: 0\nBusyWorkers: x", Status(3, 1)),
        ("IdleWorkers: -1\nBusyWorkers: 1\nScoreboard: __W", Status(2, 1)),
        ("127.0.0.1\nServerVersion: Apache/2.4: x\nBusyWorkers: 2\nIdleWorkers:  0 \nStopping: lots", Status(0, 2)),
    ],
)
def test_a_page_is_parsed(page: str, means: Status) -> None:
    assert parse_status(page) == means


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("", "neither IdleWorkers and BusyWorkers nor a Scoreboard"),
        ("BusyWorkers: 1", "nor a Scoreboard"),
        ("BusyWorkers: 99999999999999999999\nIdleWorkers: 1", "nor a Scoreboard"),
        ("Scoreboard: <script>", "nor a Scoreboard"),
        ("<!DOCTYPE html>\n<HTML><head>", "add ?auto"),
    ],
)
def test_other_text_is_refused_with_the_reason(page: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        parse_status(page)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status(3, 1), Outcome(detail="3 workers are idle", weight=100)),
        (Status(1, 100), Outcome(detail="1 workers are idle", weight=1)),
        (Status(25, 76), Outcome(detail="25 workers are idle", weight=25)),
        (Status(3, 1, 2, 1), Outcome(detail="3 workers are idle", weight=100)),
        (Status(0, 4, 1, 0), Outcome(Verdict.DRAINING, "no worker is idle, 4 are busy")),
        (Status(5, 0, 2, 2), Outcome(Verdict.DRAINING, "the server is stopping gracefully")),
        (Status(5, 0, 0, 0), Outcome(detail="5 workers are idle", weight=100)),
    ],
)
def test_the_outcome_follows_the_workers(status: Status, outcome: Outcome) -> None:
    assert evaluate(status, load=True) == outcome
    assert evaluate(status).weight is None


pieces = st.sampled_from(
    ["IdleWorkers", "BusyWorkers", "Scoreboard", "Stopping", "Processes", ":", ": ", "\n", "_", "9"]
)


@given(st.lists(pieces | st.text(max_size=8)).map("".join))
def test_any_text_is_parsed_or_refused(page: str) -> None:
    try:
        status = parse_status(page)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert 1 <= status.weight <= 100
        assert evaluate(status).verdict in (Verdict.PASSING, Verdict.DRAINING)


def test_a_server_with_idle_workers_passes(httpd: MakeHttpd) -> None:
    server = httpd()
    idle = Outcome(detail="3 workers are idle", weight=100)
    # The worker of an earlier request counts as busy until the worker has closed the connection.
    eventually_sync(lambda: look(server.port, load=True) == idle)
    server.begin()
    eventually_sync(lambda: look(server.port, load=True).weight == 67)
    assert look(server.port).weight is None


def test_a_server_without_an_idle_worker_drains(httpd: MakeHttpd) -> None:
    server = httpd()
    for _ in range(server.workers - 1):
        server.begin()
    eventually_sync(
        lambda: look(server.port) == Outcome(Verdict.DRAINING, f"no worker is idle, {server.workers} are busy")
    )
    server.begin()  # now nobody is left to serve the page

    def nobody_left() -> bool:
        outcome = look(server.port, timeout=0.5)
        return outcome.verdict is Verdict.DRAINING and outcome.detail.startswith("no answer within 0.5 s")

    eventually_sync(nobody_left)
    server.release()
    eventually_sync(lambda: look(server.port).verdict is Verdict.PASSING)


def test_a_server_that_stops_gracefully_drains_and_then_fails(httpd: MakeHttpd) -> None:
    server = httpd()
    asked = server.begin()
    eventually_sync(lambda: parse_status(server.ask().decode()).busy >= 2, "the request to be read")
    server.signal("graceful-stop")
    eventually_sync(lambda: look(server.port) == Outcome(Verdict.FAILING, "connection refused"))
    status = parse_status(server.ask(asked).decode())
    assert evaluate(status) == Outcome(Verdict.DRAINING, "the server is stopping gracefully")
    server.wait_ended()


def test_a_graceful_restart_drains_nothing(httpd: MakeHttpd) -> None:
    server = httpd(servers=2)
    server.begin()
    eventually_sync(lambda: parse_status(server.ask().decode()).busy >= 2, "the request to be read")
    server.signal("graceful")
    eventually_sync(lambda: parse_status(server.ask().decode()).stopping == 1, "the old process to be ending")
    eventually_sync(lambda: look(server.port).verdict is Verdict.PASSING)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/forbidden", "/forbidden returns status 403: allow this machine"),
        ("/not-there", "/not-there returns status 404: load mod_status"),
        ("/server-status", "this is the page for people; add ?auto to the address"),
    ],
)
def test_a_page_without_a_status_fails_with_a_remedy(path: str, told: str, httpd: MakeHttpd) -> None:
    outcome = look(httpd().port, path)
    assert outcome.verdict is Verdict.FAILING
    assert told in outcome.detail


def test_a_port_without_a_server_fails() -> None:
    assert look(free_port()) == Outcome(Verdict.FAILING, "connection refused")


async def test_a_server_of_another_protocol_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        probe = StatusProbe(HttpProbe("/"))
        probing = asyncio.create_task(probe(Backend("web", "a", "127.0.0.1", listening.getsockname()[1])))
        connection, _ = await asyncio.to_thread(listening.accept)
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
        assert (await probing).verdict is Verdict.FAILING
