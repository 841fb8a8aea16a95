"""`discovery ambassador`, `forward` and `connections`: what is a usage error, before anything is started."""

from collections.abc import Sequence

import pytest

from discovery.cli import main
from discovery_tcpproxy.commands import _instance


def refused(arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The line that a wrong argument is answered with."""
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("discovery: ")
    return err


@pytest.fixture(autouse=True)
def _nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("DISCOVERY_REGISTRY", "DISCOVERY_ADMIN", "ETCD_PORT_10000_TCP_ADDR", "ETCD_PORT_10000_TCP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISCOVERY_RUN_DIR", f"{tmp_path}/run")
    monkeypatch.setenv("DISCOVERY_STATE_DIR", f"{tmp_path}/state")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'service'"),
        (["web"], "Missing argument 'port'"),
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
        (["web", "80", "--listen", "127.0.0.1", "--listen", "0.0.0.0"], "0.0.0.0:80 takes in 127.0.0.1:80"),
        (["web", "80", "--listen", "::1", "--listen", "0::1"], "[::1]:80 twice"),
        (["web", "80", "--balance", "fair"], "--balance"),
        (["web", "80", "--hold", "-1"], "--hold"),
        (["web", "80", "--hold", "nan"], "hold"),
        (["web", "80", "--idle-timeout", "inf"], "idle_timeout"),
        (["web", "80", "--workers", "0"], "--workers"),
        (["web", "80", "--workers", "10000"], "workers"),
        (["web", "80", "--send-proxy", "v3"], "--send-proxy"),
        (["web", "80", "--registry", "nonsense"], "'nonsense' is not a URL"),
        (["web", "80", "--admin", "off"], "--admin"),
    ],
)
def test_a_wrong_argument_of_ambassador(arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(["ambassador", *arguments], capfd)


def test_half_a_link_is_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_PORT_10000_TCP_ADDR", "172.17.0.2")
    assert "ETCD_PORT_10000_TCP_PORT is not" in refused(["ambassador", "web", "80"], capfd)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'HOST:PORT...'"),
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
        (["127.0.0.1:10000"], "127.0.0.1:10000 is where we listen"),
        (["localhost:80", "--listen", "127.0.0.1:80"], "localhost:80 is where we listen"),
        (["[::1]:80", "--listen", "[::]:80"], "[::1]:80 is where we listen"),
        (["10.9.8.7:80", "--listen", "10.9.8.7:80"], "10.9.8.7:80 is where we listen"),
        (["db1:1", "--registry", "memory://"], "--registry"),
    ],
)
def test_a_wrong_argument_of_forward(arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(["forward", *arguments], capfd)


def test_instances_differ_where_addresses_do_and_can_be_names_of_directories() -> None:
    binds = ["0.0.0.0:80", "0.0.0.0:8080", "[::]:80", "unix:/run/a/b.sock", "unix:/run/a-b.sock", f"unix:/{'x' * 106}"]
    names = [_instance(command, [bind]) for command in ("ambassador", "forward") for bind in binds]
    assert len(set(names)) == 2 * len(binds)
    assert all(len(name) < 60 and "/" not in name for name in names)
    assert _instance("ambassador", ["0.0.0.0:80"]) == _instance("ambassador", ["0.0.0.0:80"])
