"""The TCP proxy as a person runs it: the daemon, its workers, a registry, and clients meanwhile."""

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import warm
from ambassadors import TIMEOUT, Directory, connect, name_at
from daemons import Starter
from proxies import Load, Serve, answers, figure, proxy

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

from .serving import ServeWeb, is_refused

pytestmark = pytest.mark.warm


def test_a_single_command_serves_and_follows_a_service(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    port = free_port()
    one, other = named("one"), named("other")
    directory.put("web", one.port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=0.0.0.0:{port}")
    assert name_at(port) == "one"
    directory.put("web", other.port)
    answers(port, "other")
    assert daemon.get("/healthz")[0] == 200
    eventually_sync(lambda: figure(daemon, "connections_total", 'consumer="tcpproxy",listener="web"') >= 2)
    assert figure(daemon, "listening", f'address="0.0.0.0:{port}"') == 1
    with connect(port) as client:
        assert client.recv(6) == b"other\n"
        _, told = daemon.get("/api/consumers/tcpproxy")
        assert [(each["backend"], each["listener"]) for each in told["connections"]] == [("b1", "web")]
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no listener: name one, as in: discovery run --plugin tcpproxy --set tcpproxy.listen.web="),
        (["--set", "tcpproxy.listen.web=80"], "80 is a port alone: write 127.0.0.1:80 for this machine alone"),
        (
            ["--set", "tcpproxy.listen.web=127.0.0.1:81", "--set", "tcpproxy.listen.db=127.0.0.1:81"],
            "listeners 'web' and 'db' both listen on 127.0.0.1:81",
        ),
        (
            ["--set", "tcpproxy.listen.web.bind=127.0.0.1:81", "--set", "tcpproxy.listen.web.hodl=1"],
            "did you mean 'hold'?",
        ),
    ],
)
def test_a_configuration_error_is_a_single_line(directory: Directory, arguments: list[str], said: str) -> None:
    command = ("run", "--registry", directory.url, "--plugin", "tcpproxy", *arguments)
    done = warm.run(*command, env=os.environ, timeout=within(60))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_duplicate_listener_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "discovery.toml"
    path.write_text('[consumers.tcp]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:81"\nlisten.web = "127.0.0.1:82"\n')
    done = warm.run("run", "--config", str(path), env=os.environ, timeout=within(60))
    assert done.returncode == 2
    assert f"{path}: is not valid TOML: Cannot overwrite a value (at line 4" in done.stderr


def test_listeners_of_every_kind_change_on_reload_and_other_connections_go_on(
    directory: Directory, start_daemon: Starter, named: Serve, tmp_path: Path
) -> None:
    web, db, moved = (free_port() for _ in range(3))
    path = tmp_path / "discovery.toml"

    def configure(*lines: str) -> None:
        head = f'[registry]\nurl = "{directory.url}"\n[consumers.tcp]\nplugin = "tcpproxy"\n'
        temporary = path.with_suffix(".new")
        temporary.write_text(head + "\n".join(lines))
        temporary.replace(path)

    directory.put("web", named("web").port)
    directory.put("db", named("db").port)
    configure(f'listen.web = ["127.0.0.1:{web}", "unix:{tmp_path}/web.sock"]', f'listen.db = "[::1]:{db}"')
    daemon = start_daemon("--config", str(path))
    eventually_sync(daemon.is_ready, timeout=TIMEOUT)
    with connect(web) as client, connect(db, "::1") as other, socket.socket(socket.AF_UNIX) as local:
        local.connect(f"{tmp_path}/web.sock")
        held = {client: b"web\n", other: b"db\n", local: b"web\n"}
        for each, greeting in held.items():
            each.settimeout(within(TIMEOUT))
            assert each.recv(10) == greeting
        configure(f'listen.db = {{ bind = "127.0.0.1:{moved}" }}', f'listen.web = "[::1]:{web}"', "workers = 2")
        eventually_sync(lambda: name_at(moved) == "db", timeout=TIMEOUT)
        assert name_at(web, "::1") == "web"
        eventually_sync(lambda: not Path(f"{tmp_path}/web.sock").exists(), "the socket's file to go")
        eventually_sync(lambda: is_refused(web), timeout=TIMEOUT)
        eventually_sync(lambda: is_refused(db, "::1"), timeout=TIMEOUT)
        for each in held:
            each.sendall(b"hello")
            assert each.recv(10) == b"hello"
    assert daemon.stop() == 0


def test_a_port_in_use_is_reported_and_affects_no_other_listener(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    port = free_port()
    busy = named("another program")
    directory.put("web", named("web").port)
    daemon = proxy(
        start_daemon,
        directory.url,
        f"listen.web=127.0.0.1:{port}",
        f"listen.other.bind=127.0.0.1:{busy.port}",
        "listen.other.service=web",
    )
    assert name_at(port) == "web"
    told = f"listener other cannot listen on 127.0.0.1:{busy.port}: address already in use over TCP by "
    eventually_sync(lambda: told in daemon.get("/healthz")[1]["problems"]["tcpproxy"], timeout=TIMEOUT)
    assert told in daemon.log
    busy.close()
    answers(busy.port, "web")
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200, timeout=TIMEOUT)


def test_a_worker_killed_under_load_fails_only_its_own_connections(serve_web: ServeWeb) -> None:
    port, daemon = serve_web("workers=2")
    clients, kills = 4, 3
    with Load(port, clients).running() as load:
        for number in range(kills):
            [*_, victim] = daemon.get("/api/consumers/tcpproxy")[1]["workers"]
            os.kill(victim["pid"], signal.SIGKILL)
            eventually_sync(lambda n=number: figure(daemon, "workers_replaced_total") == n + 1, timeout=TIMEOUT)
            eventually_sync(lambda: figure(daemon, "workers") == 2, timeout=TIMEOUT)
            load.goes_on()
    assert len(load.failed) <= clients * kills, load.failed
    assert not any("refused" in each for each in load.failed)
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200, timeout=TIMEOUT)


def test_an_outage_of_the_registry_does_not_affect_clients(start_daemon: Starter, named: Serve, tmp_path: Path) -> None:
    require_program("etcd")
    port = free_port()
    one, other = named("one"), named("other")
    with EmbeddedEtcd() as etcd:
        etcd.ctl("put", "/services/web/a", json.dumps({"host": "127.0.0.1", "port": one.port}))
        daemon = proxy(start_daemon, etcd.url, f"listen.web=127.0.0.1:{port}", "grace=0")
        with Load(port).running() as load, connect(port) as client:
            assert client.recv(4) == b"one\n"
            etcd.kill()
            eventually_sync(lambda: "registry cannot be followed" in daemon.log, timeout=TIMEOUT)
            load.goes_on()
            client.sendall(b"still here")
            assert client.recv(10, socket.MSG_WAITALL) == b"still here"
        assert load.failed == []
        # Another daemon that starts meanwhile serves what was known last.
        assert daemon.stop() == 0
        daemon = start_daemon(
            "--registry", etcd.url, "--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=127.0.0.1:{port}"
        )
        answers(port, "one")
        etcd.start()
        etcd.ctl("put", "/services/web/a", json.dumps({"host": "127.0.0.1", "port": other.port}))
        answers(port, "other")


def test_clients_of_an_unknown_service_wait_for_the_service(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    port = free_port()
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}")
    with connect(port) as client:
        client.sendall(b"hello")
        eventually_sync(lambda: figure(daemon, "connections_waiting") == 1, timeout=TIMEOUT)
        directory.put("web", named("late").port)
        assert client.recv(5, socket.MSG_WAITALL) == b"late\n"
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"


def test_clients_of_an_empty_service_wait_without_failures(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    port = free_port()
    first = named("first")
    directory.put("web", first.port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}")
    with Load(port, 4).running() as load:
        directory.remove("web")
        eventually_sync(lambda: figure(daemon, "connections_waiting") == 4, "all to wait", TIMEOUT)
        directory.put("web", named("second").port)
    assert load.failed == []


@pytest.mark.parametrize("options", [["on_leave=close"], ["drain=0.2"]])
def test_on_leave_close_closes_connections_to_a_removed_backend(
    directory: Directory, start_daemon: Starter, named: Serve, options: list[str]
) -> None:
    port = free_port()
    directory.put("web", named("one").port)
    sets = [f"listen.web.{each}" for each in options]
    proxy(start_daemon, directory.url, f"listen.web.bind=127.0.0.1:{port}", *sets)
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        directory.put("web", named("other").port)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    answers(port, "other")


def test_connections_have_time_to_finish_when_the_daemon_stops(serve_web: ServeWeb) -> None:
    port, daemon = serve_web("grace=60")
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        daemon.process.terminate()

        def refused() -> bool:
            client.sendall(b"x")  # an idle connection would be closed
            assert client.recv(1) == b"x"
            with (
                suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", port), timeout=within(TIMEOUT)),
            ):
                return False
            return True

        eventually_sync(refused, "new connections to be refused", TIMEOUT)
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        assert daemon.process.poll() is None
    assert daemon.process.wait(within(TIMEOUT)) == 0


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_upgrades_refuse_no_client(
    directory: Directory, start_daemon: Starter, named: Serve, tmp_path: Path, count: int
) -> None:
    port = free_port()
    directory.put("web", named("one").port)
    sets = [f'listen.web=["127.0.0.1:{port}","unix:{tmp_path}/web.sock"]', "grace=600"]
    daemon = proxy(start_daemon, directory.url, *sets)
    with Load(port, 16).running() as load, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(within(TIMEOUT))
        client.connect(f"{tmp_path}/web.sock")
        assert client.recv(4) == b"one\n"
        first, run_dir = daemon, daemon.run_dir
        for _ in range(count):
            before, daemon = daemon, proxy(start_daemon, directory.url, *sets, replace=run_dir)
            load.goes_on()
            if before is not first:  # which the client above keeps
                assert before.process.wait(within(TIMEOUT)) == 0
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        assert first.process.poll() is None
        client.close()
        assert first.process.wait(within(TIMEOUT)) == 0
    assert load.failed == []
    assert daemon.stop() == 0
    assert not any("[error]" in each.log for each in start_daemon.started)
    assert not Path(f"{tmp_path}/web.sock").exists()
