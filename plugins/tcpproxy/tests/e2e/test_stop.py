"""`discovery stop` ends daemons, and what a killed daemon has left."""

import json
import signal
import subprocess
import threading
from typing import Any

import pytest
from ambassadors import TIMEOUT, Directory, connect, name_at
from daemons import DISCOVERY, Starter, processes, run_stop
from proxies import Serve, answers, proxy

from discovery.testing import eventually_sync, free_port, require_program, within

from .serving import ServeWeb, echoes, have_ended, is_refused, kill, workers

pytestmark = pytest.mark.warm


@pytest.mark.costly
def test_stop_ends_the_processes_that_a_killed_daemon_left(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14. In order: connections have their time; and a HAProxy, too."""
    require_program("haproxy")
    port, web = free_port(), free_port()
    directory.put("web", named("one").port)
    daemon = start_daemon(
        *("--registry", directory.url, "--plugin", "tcpproxy", "--plugin", "haproxy"),
        *("--set", f"tcpproxy.listen.web=127.0.0.1:{port}", "--set", "tcpproxy.workers=2"),
        *("--set", f"haproxy.services.web.bind=127.0.0.1:{web}", "--set", "haproxy.services.web.mode=tcp"),
    )
    eventually_sync(daemon.is_ready, "the daemon to be ready", TIMEOUT)
    pids = workers(daemon)
    kill(daemon)
    assert name_at(port) == name_at(web) == "one"
    left = processes(daemon.run_dir)
    assert len(left) == 4  # HAProxy's master and worker
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        command = [*DISCOVERY, "stop", "--run-dir", str(daemon.run_dir), "--json"]
        stopping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        eventually_sync(lambda: echoes(client) and is_refused(port), "new clients to be refused", TIMEOUT)
        assert echoes(client)
    out, _ = stopping.communicate(timeout=within(TIMEOUT))
    assert stopping.returncode == 0
    told: dict[str, Any] = json.loads(out)
    assert told["failed"] == []
    assert {(each["what"], each["instance"]) for each in told["ended"]} == {
        ("HAProxy", "haproxy"),
        ("a worker of the TCP proxy", "tcpproxy"),
    }
    assert {each["pid"] for each in told["ended"]} >= pids
    assert processes(daemon.run_dir) == {}
    assert is_refused(web)
    code, out, error = run_stop(daemon.run_dir)
    assert (code, out, error) == (0, "", f"discovery: nothing runs on {daemon.run_dir}\n")


@pytest.mark.costly
def test_workers_do_not_keep_the_stderr_of_a_killed_stop_command(serve_web: ServeWeb) -> None:
    """Point 14. A shell that reads it would wait for their last connection."""
    port, daemon = serve_web("grace=600")
    pids = workers(daemon)
    kill(daemon)
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        command = [*DISCOVERY, "stop", "--run-dir", str(daemon.run_dir)]
        stopping = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        eventually_sync(lambda: echoes(client) and is_refused(port), "new clients to be refused", TIMEOUT)
        stopping.kill()
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(stopping.communicate()[1]), daemon=True)
        reader.start()
        eventually_sync(lambda: echoes(client) and not reader.is_alive(), "the end of its stderr", TIMEOUT)
        assert "ends with its last connection" not in said[0]
        eventually_sync(lambda: echoes(client) and "ends with its last connection" in daemon.log, timeout=TIMEOUT)
    eventually_sync(lambda: have_ended(pids), "the worker to end", TIMEOUT)


@pytest.mark.costly
def test_a_daemon_names_orphaned_processes_of_instances_that_it_does_not_have(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14. An instance was removed from the configuration meanwhile: its HAProxy still holds its addresses."""
    require_program("haproxy")
    port, web = free_port(), free_port()
    directory.put("web", named("one").port)
    daemon = start_daemon(
        *("--registry", directory.url, "--plugin", "tcpproxy", "--plugin", "haproxy"),
        *("--set", f"tcpproxy.listen.web=127.0.0.1:{port}"),
        *("--set", f"haproxy.services.web.bind=127.0.0.1:{web}", "--set", "haproxy.services.web.mode=tcp"),
    )
    eventually_sync(daemon.is_ready, "the daemon to be ready", TIMEOUT)
    kill(daemon)
    following = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", run_dir=daemon.run_dir)
    (line,) = [line for line in following.log.splitlines() if "of instances that this daemon does not have" in line]
    assert f"discovery stop --run-dir {daemon.run_dir}" in line
    assert "instances=haproxy" in line
    answers(web, "one")
    code, out, _ = run_stop(daemon.run_dir)
    assert (code, "of haproxy" in out) == (0, True)
    assert is_refused(web)


def test_stop_ends_a_running_daemon_in_order(serve_web: ServeWeb) -> None:
    """Point 14."""
    _, daemon = serve_web()
    pids = workers(daemon)
    code, out, _ = run_stop(daemon.run_dir)
    assert (code, out) == (0, f"stopped daemon, process {daemon.process.pid} (tcpproxy)\n")
    assert daemon.process.wait(within(TIMEOUT)) == 0
    assert have_ended(pids)


@pytest.mark.costly
def test_stop_names_a_daemon_that_does_not_end(serve_web: ServeWeb) -> None:
    """Point 14. Its workers are left to it."""
    _, daemon = serve_web()
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        code, out, error = run_stop(daemon.run_dir, "--timeout", "0.5")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert (code, out) == (1, "")
    assert f"process {daemon.process.pid} has not ended within 0.5 s" in error
