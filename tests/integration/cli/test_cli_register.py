"""`discovery register`: from the first line to the withdrawal."""

import os
import signal
import socket
from pathlib import Path

import pytest
from daemons import catches
from third_party import HANGS, install

from discovery.system.embedded import EmbeddedEtcd
from discovery.system.owners import machine_id
from discovery.testing import eventually_sync, free_port, within

from .conftest import END, Command, Start, World


def test_it_registers_until_it_is_stopped(start: Start, world: World) -> None:
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    options = ["--id", "b1", "--weight", "5", "--label", "zone=a", "--label", "note=x=y", "--state", "draining"]
    register = start("register", "web", "[::1]:8080", *options, "--registry", world.url)
    assert register.line().startswith("registered web/b1 at [::1]:8080 (ttl 10 s, owner ")
    (added,) = watch.json()["added"]
    assert added == {
        "service": "web",
        "id": "b1",
        "host": "::1",
        "port": 8080,
        "weight": 5,
        "state": "draining",
        "labels": {"zone": "a", "note": "x=y"},
    }
    assert register.stop(signal.SIGINT) == 0
    assert register.line() == END
    assert register.stderr == ""
    assert [each["id"] for each in watch.json()["removed"]] == ["b1"]


def test_systemd_is_told_when_it_is_registered_and_when_it_stops(
    start: Start, file_world: World, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address := str(tmp_path / "notify"))
        manager.settimeout(within(40))
        register = start("register", "web", "127.0.0.1:1", "--registry", file_world.url, NOTIFY_SOCKET=address)
        assert manager.recv(4096) == b"READY=1\nSTATUS=registered web/127.0.0.1:1 at 127.0.0.1:1"
        assert register.stop() == 0
        assert manager.recv(4096) == b"STOPPING=1"
        # A unit whose backend is down is ready, too: systemd would end what does not become ready.
        options = ("--check", "tcp", "--registry", file_world.url)
        register = start("register", "web", f"127.0.0.1:{free_port()}", *options, NOTIFY_SOCKET=address)
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=waits for the check of web/127.0.0.1:")
        assert register.stop() == 128 + signal.SIGTERM


def test_after_a_crash_it_takes_its_own_key_over_without_a_gap(start: Start, world: World) -> None:
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    crashed = start("register", "web", "127.0.0.1:1", "--ttl", "60", "--registry", world.url)
    assert crashed.line().startswith("registered web/127.0.0.1:1 ")
    assert watch.json()["added"]
    crashed.stop(signal.SIGKILL)
    again = start("register", "web", "127.0.0.1:1", "--label", "n=2", "--registry", world.url)
    assert again.line().startswith("registered ")
    updated = watch.json()
    changes = [[each["labels"] for each in updated[kind]] for kind in ("added", "updated", "removed")]
    assert changes == [[], [{"n": "2"}], []]
    # One that does not come back is gone after its TTL.
    other = start("register", "web", "127.0.0.1:2", "--ttl", f"{within(2):g}", "--registry", world.url)
    other.line()
    other.stop(signal.SIGKILL)
    assert [each["port"] for each in watch.json()["added"]] == [2]
    (expired,) = watch.json()["removed"]
    assert expired["port"] == 2
    assert again.stop() == 0
    assert [each["port"] for each in watch.json()["removed"]] == [1]


def test_the_second_of_one_key_on_a_machine_is_refused_by_name(start: Start, file_world: World) -> None:
    first = start("register", "web", "127.0.0.1:1", "--registry", file_world.url)
    first.line()
    second = start("register", "web", "127.0.0.1:1", "--registry", file_world.url)
    assert second.end() == 1
    assert second.stderr.count("\n") == 1
    assert f"web/127.0.0.1:1 is already running as process {first.process.pid}" in second.stderr
    assert first.process.poll() is None


def test_another_live_owners_key_is_refused_unless_forced(start: Start, world: World, tmp_path: Path) -> None:
    first = start("register", "web", "127.0.0.1:1", "--id", "x", "--owner", "first", "--registry", world.url)
    first.line()
    arguments = ["register", "web", "127.0.0.1:2", "--id", "x", "--owner", "second", "--registry", world.url]
    refused = start(*arguments, "--run-dir", str(tmp_path / "other"))
    assert refused.end() == 1
    assert refused.stderr.count("\n") == 1
    assert "first" in refused.stderr
    forced = start(*arguments, "--force", "--run-dir", str(tmp_path / "other"))
    assert forced.line().startswith("registered web/x at 127.0.0.1:2")
    eventually_sync(lambda: "registration lost" in first.stderr)
    assert first.process.poll() is None
    assert forced.stop() == 0
    assert first.stop() == 0


def test_the_second_of_one_key_with_another_run_directory_is_refused_by_name_until_the_first_crashes(
    start: Start, world: World, tmp_path: Path
) -> None:
    """Point 24."""
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()

    def register(port: int, run_dir: str) -> Command:
        return start(
            "register",
            "web",
            f"127.0.0.1:{port}",
            "--id",
            "x",
            "--ttl",
            "600",
            "--registry",
            world.url,
            "--run-dir",
            str(tmp_path / run_dir),
        )

    first = register(1, "one")
    assert first.line().startswith("registered ")
    assert [each["port"] for each in watch.json()["added"]] == [1]
    second = register(2, "two")
    assert second.end() == 1
    assert second.stderr.count("\n") == 1
    assert f"@{os.geteuid()}:{tmp_path}/one/register-" in second.stderr
    for port, run_dir in ((3, "one"), (4, "two")):
        first.stop(signal.SIGKILL)
        first = register(port, run_dir)
        assert first.line().startswith("registered ")
        assert [each["port"] for each in watch.json()["updated"]] == [port]
    assert first.stop() == 0
    assert [each["port"] for each in watch.json()["removed"]] == [4]


def test_what_an_earlier_version_registered_is_taken_over_in_place(start: Start, world: World) -> None:
    """Point 24. Its default owner was the machine and the key alone."""
    owner = f"{machine_id()}/register/web/x"
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    arguments = ["--id", "x", "--ttl", "600", "--registry", world.url]
    earlier = start("register", "web", "127.0.0.1:1", *arguments, "--owner", owner)
    assert earlier.line().startswith("registered ")
    assert watch.json()["added"]
    earlier.stop(signal.SIGKILL)
    now = start("register", "web", "127.0.0.1:2", *arguments)
    assert now.line().startswith("registered ")
    assert [each["port"] for each in watch.json()["updated"]] == [2]
    assert now.stop() == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_refused_key_is_registered_the_moment_it_is_free(
    start: Start, world: World, tmp_path: Path, end: signal.Signals
) -> None:
    """Point 4. Its own ttl of ten minutes would be the time until the registration is tried again."""
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    arguments = ["--id", "x", "--registry", world.url, "--check", "none"]
    first = start("register", "web", "127.0.0.1:1", "--owner", "first", "--ttl", f"{within(2):g}", *arguments)
    assert first.line()
    assert watch.json()["added"]
    arguments += ["--run-dir", str(tmp_path / "other"), "--", "sleep", "600"]
    second = start("register", "web", "127.0.0.1:2", "--owner", "second", "--ttl", "600", *arguments)
    eventually_sync(lambda: "'web/x' belongs to 'first'" in second.stderr, timeout=30)
    first.stop(end)
    assert [each["port"] for each in watch.json()["removed"]] == [1]
    assert [each["port"] for each in watch.json()["added"]] == [2]
    assert second.stop() == 128 + signal.SIGTERM


def test_a_key_that_somebody_deletes_comes_back(start: Start, world: World) -> None:
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    register = start("register", "web", "127.0.0.1:1", "--id", "x", "--registry", world.url)
    register.line()
    assert watch.json()["added"]
    world.delete("web/x")
    assert watch.json()["removed"]
    assert watch.json()["added"]
    eventually_sync(lambda: "registered" in register.stderr)


def test_it_gives_up_on_a_registry_that_is_away_from_the_start(start: Start) -> None:
    port = free_port()
    register = start("register", "web", "127.0.0.1:1", "--timeout", "1", "--registry", f"etcd://127.0.0.1:{port}")
    assert register.end() == 1
    assert register.line() == END
    assert register.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in register.stderr


def test_it_waits_for_a_registry_that_comes_in_time(start: Start) -> None:
    etcd = EmbeddedEtcd()
    try:
        register = start("register", "web", "127.0.0.1:1", "--timeout", "30", "--registry", etcd.url)
        etcd.start()
        assert register.line(30).startswith("registered ")
        assert register.stop() == 0
    finally:
        etcd.stop()


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    install(site := tmp_path / "site", "hangs", HANGS)
    register = start("register", "web", "127.0.0.1:1", "--registry", "hangs://", PYTHONPATH=str(site))
    assert register.line().startswith("registered ")
    register.process.terminate()
    # The withdrawal, which never ends, has begun; a signal is the second once the system's own handler is back.
    eventually_sync(lambda: not catches(register.process.pid, signal.SIGTERM))
    assert register.stop() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["web", "10.0.0.1"], "is not HOST:PORT"),
        (["web", "10.0.0.1:0"], "the port 0"),
        (["web", "0.0.0.0:80"], "'0.0.0.0'"),
        (["web", "bad-:80"], "'bad-'"),
        (["we b", "10.0.0.1:80"], "'we b'"),
        (["web", "10.0.0.1:80", "--id", "a b"], "'a b'"),
        (["web", "10.0.0.1:80", "--weight", "257"], "'257' is not a whole number from 0 to 256"),
        (["web", "10.0.0.1:80", "--weight", "x"], "--weight"),
        (["web", "10.0.0.1:80", "--label", "x"], "KEY=VALUE"),
        (["web", "10.0.0.1:80", "--label", "a b=c"], "'a b'"),
        (["web", "10.0.0.1:80", "--label", "a=b\nc"], "label 'a'"),
        (["web", "10.0.0.1:80", "--ttl", "0"], "--ttl"),
        (["web", "10.0.0.1:80", "--ttl", "3601"], "--ttl"),
        (["web", "10.0.0.1:80", "--owner", "x\ny"], "owner"),
        (["web", "10.0.0.1:80", "--state", "gone"], "--state"),
        (["web", "10.0.0.1:80", "--registry", "nonsense"], "'nonsense' is not a URL"),
        (["web", "10.0.0.1:80", "--registry", "etcd://[::1"], "an IPv6 address goes in brackets"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from discovery.cli import main

    monkeypatch.delenv("DISCOVERY_REGISTRY", raising=False)
    assert main(["register", "--run-dir", "/nonexistent/never-made", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Input should" not in err
    assert "Value error" not in err
    assert err.count("\n") == 1
    assert reason in err


def test_a_port_alone_is_registered_at_the_announced_address_of_this_machine(start: Start, file_world: World) -> None:
    """Issue 12, A.6."""
    register = start("register", "web", ":8080", "--registry", file_world.url, DISCOVERY_ADDRESS="10.0.0.5,fd00::5")
    assert register.line().startswith("registered web/10.0.0.5:8080 at 10.0.0.5:8080 (")
    assert "the announced address is 10.0.0.5 (DISCOVERY_ADDRESS)\n" in register.stderr
    by_option = start(
        "register", "web", ":8081", "--host", "web-1", "--registry", file_world.url, DISCOVERY_ADDRESS="10.0.0.5"
    )
    assert by_option.line().startswith("registered web/web-1:8081 at web-1:8081 (")
    assert register.stop() == 0
    assert by_option.stop() == 0
    for arguments, message in (
        ((":8080", "--host", "interface:none"), "--host the interface none has no address, or is missing"),
        (("10.0.0.5:80", "--host", "10.0.0.6"), "'10.0.0.5:80' names a host, and --host names another"),
        ((":x",), "the port 'x' is not a whole number"),
    ):
        refused = start("register", "web", *arguments, "--registry", file_world.url)
        assert refused.end() == 2
        assert message in refused.stderr
