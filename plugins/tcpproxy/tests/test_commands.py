"""`discovery ambassador`, `forward` and `connections`: what is a usage error, before anything is started."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from discovery.addresses import primary_address
from discovery.cli import main
from discovery.testing import cannot_run, free_port, within
from discovery_tcpproxy.commands import _binds, _instance
from discovery_tcpproxy.connection_list import duration, size


def refused(arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The line that a wrong argument is answered with."""
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("discovery: ")
    return err


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that gives each of its connections one of these answers, and ends it."""

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(within(30))
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("DISCOVERY_REGISTRY", "DISCOVERY_ADMIN", "ETCD_PORT_10000_TCP_ADDR", "ETCD_PORT_10000_TCP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISCOVERY_RUN_DIR", f"{tmp_path}/run")
    monkeypatch.setenv("DISCOVERY_STATE_DIR", f"{tmp_path}/state")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'SERVICE'"),
        (["web"], "Missing argument 'PORT'"),
        (["web", "0"], "the port '0' is not a number from 1 to 65535"),
        (["web", "65536"], "the port '65536'"),
        (["web", "http"], "the port 'http'"),
        (["web", "8²"], "the port"),
        (["web", "80/tcp"], "the port '80/tcp'"),
        (["we b", "80"], "'we b'"),
        (["web/x", "80"], "'web/x"),
        (["", "80"], "service name ''"),
        (["web", "80", "--listen", "127.0.0.1:80"], "--listen '127.0.0.1:80' is not an address"),
        (["web", "80", "--listen", "nowhere"], "(the port is 80 already)"),
        (["web", "80", "--listen", ""], "--listen ''"),
        (["web", "80", "--listen", "interface:none"], "--listen the interface none has no address, or is missing"),
        (["web", "80", "--listen", "network:198.18.0.0/24"], "--listen this machine has no address in 198.18.0.0/24"),
        (["web", "80", "--listen", "network:10.0.0.1/8"], "--listen 'network:10.0.0.1/8' does not name a network"),
        (["web", "80", "--listen", "127.0.0.1", "--listen", "0.0.0.0"], "0.0.0.0:80 includes 127.0.0.1:80"),
        (["web", "80", "--listen", "::1", "--listen", "0::1"], "[::1]:80 twice"),
        (["web", "80", "--balance", "fair"], "--balance"),
        (["web", "80", "--hold", "-1"], "--hold"),
        (["web", "80", "--hold", "nan"], "hold"),
        (["web", "80", "--idle-timeout", "inf"], "'--idle-timeout': 'inf' is not a duration"),
        (["web", "80", "--workers", "0"], "--workers"),
        (["web", "80", "--workers", "10000"], "workers"),
        (["web", "80", "--send-proxy", "v3"], "--send-proxy"),
        (["web", "80", "--accept-proxy", "true"], "'true' is not a network"),
        (["web", "80", "--registry", "nonsense"], "'nonsense' is not a URL"),
        (["web", "80", "--admin", "nowhere"], "admin: 'nowhere'"),
    ],
)
def test_ambassador_refuses_an_invalid_argument(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(["ambassador", *arguments], capfd)


def test_an_ambassador_listens_on_the_addresses_that_a_source_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 12, A.6. The variable names an announced address, which says nothing of where to listen."""
    own = primary_address()
    if own is None:
        cannot_run("this machine has no network")
    monkeypatch.setenv("DISCOVERY_ADDRESS", "192.0.2.1")
    assert _binds(f"network:{own}/32", 80) == [f"{own}:80"]


def test_ambassador_refuses_an_incomplete_link(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_PORT_10000_TCP_ADDR", "172.17.0.2")
    assert "ETCD_PORT_10000_TCP_PORT is not" in refused(["ambassador", "web", "80"], capfd)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'HOST:PORT'"),
        (["db1"], "'db1' is not HOST:PORT"),
        (["db1:0"], "port 0"),
        (["db1:65536"], "port 65536"),
        (["fd00::1:80"], "an IPv6 address goes in brackets"),
        (["0.0.0.0:80"], "not an address that one can connect to"),
        (["db1:1", "db2:1", "db1:1"], "db1:1 is given twice"),
        (["db1:1", "DB1:1"], "db1:1 is given twice"),
        (["db1:1", "--listen", "10000"], "'10000' is not HOST:PORT"),
        (["db1:1", "--listen", "127.0.0.1"], "'127.0.0.1' is not HOST:PORT"),
        (["db1:1", "--listen", "nowhere:80"], "does not begin with an IP address"),
        (["db1:1", "--listen", "unix:relative"], "unix:/run/web.sock"),
        (["127.0.0.1:10000"], "127.0.0.1:10000 is an address that this command listens on"),
        (["localhost:80", "--listen", "127.0.0.1:80"], "localhost:80 is an address that this command listens on"),
        (["[::1]:80", "--listen", "[::]:80"], "[::1]:80 is an address that this command listens on"),
        (["10.9.8.7:80", "--listen", "10.9.8.7:80"], "10.9.8.7:80 is an address that this command listens on"),
        (["db1:1", "--registry", "memory://"], "--registry"),
    ],
)
def test_forward_refuses_an_invalid_argument(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(["forward", *arguments], capfd)


def test_instance_names_differ_by_address_and_are_valid_directory_names() -> None:
    binds = ["0.0.0.0:80", "0.0.0.0:8080", "[::]:80", "unix:/run/a/b.sock", "unix:/run/a-b.sock", f"unix:/{'x' * 106}"]
    names = [_instance(command, [bind]) for command in ("ambassador", "forward") for bind in binds]
    assert len(set(names)) == 2 * len(binds)
    assert all(len(name) < 60 and "/" not in name for name in names)
    assert _instance("ambassador", ["0.0.0.0:80"]) == _instance("ambassador", ["0.0.0.0:80"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--admin", "off"], "--admin 'off' is not the address of an admin endpoint: write HOST:PORT"),
        (["--admin", "nowhere"], "--admin 'nowhere'"),
        (["--admin", "127.0.0.1:0"], "a port from 1 to 65535"),
        (["--admin", ":9901"], "write HOST:PORT, with a port from 1 to 65535, such as 127.0.0.1:9901"),
        (["web"], "unexpected extra argument"),
    ],
)
def test_connections_refuses_an_invalid_argument(
    arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(["connections", *arguments], capfd)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "0.0.0.0:{}", "[::]:{}", "localhost:{}"])
def test_connections_reports_that_no_daemon_answers(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["connections", "--admin", address.format(free_port())]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Connection refused" in err
    assert "name its admin endpoint with --admin" in err


CONSUMERS = b'{"consumers": [{"name": "edge", "plugin": "tcpproxy"}, {"name": "lb", "plugin": "haproxy"}]}'


@pytest.mark.parametrize(
    ("answers", "arguments", "reason"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n<html>"], [], "is no daemon"),
        ([b"HTTP/1.1 404 Not Found\r\n\r\n404: Not Found"], [], "of an earlier version"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], [], "no daemon answers"),
        ([b""], [], "127.0.0.1:"),
        ([b"HTTP/1.1 200 OK\r\n\r\n[]"], [], "is no daemon"),
        ([b'HTTP/1.1 200 OK\r\n\r\n{"consumers": []}'], [], "no consumer of the plugin tcpproxy; it has none"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + CONSUMERS], ["--consumer", "lb"], "no consumer 'lb' of the plugin tcpproxy"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + CONSUMERS], ["--consumer", "x"], "it has edge"),
        (
            [b"HTTP/1.1 200 OK\r\n\r\n" + CONSUMERS, b'HTTP/1.1 504 T\r\n\r\n{"error": "slow\\u001b"}'],
            [],
            ": slow",
        ),
        (
            [b"HTTP/1.1 200 OK\r\n\r\n" + CONSUMERS, b"HTTP/1.1 200 OK\r\n\r\n{}"],
            [],
            "is not that of a daemon's admin endpoint",
        ),
    ],
)
def test_connections_reports_an_unexpected_answer(
    answers: list[bytes], arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with answering(*answers) as port:
        assert main(["connections", "--admin", f"127.0.0.1:{port}", *arguments]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
    assert "\x1b" not in err


def test_connections_prints_a_table_and_json(capfd: pytest.CaptureFixture[str]) -> None:
    held = {"listener": "web", "client": ["fd00::1", 5000], "backend": None, "address": None, "age": 0.25}
    told = [
        held | {"received": 17, "sent": 0, "state": "held"},
        held
        | {"client": [], "backend": "b1\n", "address": ["10.0.0.1", 80], "age": 7500, "received": 2048, "sent": 3 << 30}
        | {"state": "open"},
    ]
    document = json.dumps({"connections": told, "more_connections": 3}).encode()
    answers = (b"HTTP/1.1 200 OK\r\n\r\n" + CONSUMERS, b"HTTP/1.1 200 OK\r\n\r\n" + document)
    with answering(*answers) as port:
        assert main(["connections", "--admin", f"127.0.0.1:{port}"]) == 0
    out, err = capfd.readouterr()
    assert err == "discovery: and 3 more\n"
    assert [line.split() for line in out.splitlines()] == [
        ["CONSUMER", "LISTENER", "CLIENT", "BACKEND", "ADDRESS", "AGE", "IN", "OUT", "STATE"],
        ["edge", "web", "[fd00::1]:5000", "-", "-", "0.2s", "17B", "0B", "held"],
        ["edge", "web", "-", "b1\\n", "10.0.0.1:80", "2h05m", "2.0KiB", "3.0GiB", "open"],
    ]
    with answering(*answers) as port:
        assert main(["connections", "--admin", f"127.0.0.1:{port}", "--json", "--consumer", "edge"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "connections": [{"consumer": "edge", **each} for each in told],
        "more": 3,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (59.94, "59.9s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90000, "1d01h")],
)
def test_format_of_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1.0KiB"), (1 << 20, "1.0MiB"), (5 << 40, "5120.0GiB")]
)
def test_format_of_sizes(number: int, text: str) -> None:
    assert size(number) == text
