"""The embedded etcd: it starts, survives what is done to it, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from discovery.errors import CannotStartError, ConfigError, DiscoveryError
from discovery.system.embedded import EmbeddedEtcd, find_program
from discovery.testing import eventually_sync, require_program
from discovery.testing.etcd import EtcdCluster


@pytest.fixture(autouse=True)
def _etcd() -> None:
    require_program("etcd")
    require_program("etcdctl")


def test_it_keeps_its_data_through_a_kill_and_leaves_nothing_behind() -> None:
    with EmbeddedEtcd() as etcd:
        etcd.ctl("put", "a", "b")
        first = etcd.pid
        etcd.kill()
        etcd.start()
        second = etcd.pid
        assert etcd.ctl("get", "a").split() == ["a", "b"]
        etcd.kill()
        etcd.wipe()
        etcd.start()
        assert etcd.ctl("get", "a") == ""
        directory, third = etcd.directory, etcd.pid
    assert not directory.exists()
    for pid in (first, second, third):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(CannotStartError):
        _ = etcd.pid


def test_it_ends_with_whoever_started_it_though_killed() -> None:
    script = (
        "from discovery.system.embedded import EmbeddedEtcd; import time;"
        "etcd = EmbeddedEtcd(); etcd.start(); print(etcd.pid, etcd.directory, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        owner.kill()
    eventually_sync(lambda: not Path(directory).exists() and not Path("/proc", pid).exists(), "its end")


def test_a_port_taken_meanwhile_is_replaced() -> None:
    etcd = EmbeddedEtcd()
    with socket.create_server(("127.0.0.1", etcd.port)) as taken, etcd:
        assert etcd.port != taken.getsockname()[1]
        etcd.ctl("put", "a", "b")


def test_ports_of_members_of_a_cluster_that_are_taken_meanwhile_are_replaced() -> None:
    cluster = EtcdCluster()
    first, second, third = cluster.members
    ports = [first.port, second.peer_port, third._health_port]
    with ExitStack() as taken:
        for port in ports:
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        with cluster:
            assert not {first.port, second.peer_port, third._health_port} & set(ports)
            first.ctl("put", "a", "b")
            assert third.ctl("get", "a").split() == ["a", "b"]


def test_a_wrong_flag_is_told_in_etcd_s_own_words() -> None:
    with pytest.raises(CannotStartError, match="nonsense"), EmbeddedEtcd("--nonsense"):
        pass


def test_what_etcdctl_refuses_is_told() -> None:
    with EmbeddedEtcd() as etcd, pytest.raises(DiscoveryError, match="nonsense"):
        etcd.ctl("nonsense")


def test_it_ignores_the_settings_of_another_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_DATA_DIR", "/nonexistent")
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://10.255.255.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with EmbeddedEtcd() as etcd:
        eventually_sync(lambda: etcd.metric("etcd_server_has_leader") == 1)


def test_a_program_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_program("etcd") == program


def test_a_missing_program_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'no-such-program' is not on PATH: install it"):
        find_program("no-such-program")
