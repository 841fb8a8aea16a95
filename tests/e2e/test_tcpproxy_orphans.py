"""The TCP proxy's daemon is killed: its workers go on, the next daemon takes them over, `discovery stop` ends them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect, descendants, name_at
from daemons import DISCOVERY, Daemon, Starter, processes
from proxies import Load, Serve, answers, proxy

import discovery_tcpproxy
from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm


def kill(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait(within(TIMEOUT))


def workers(daemon: Daemon) -> set[int]:
    return {each["pid"] for each in daemon.get("/api/consumers/tcpproxy")[1]["workers"]}


def gone(pids: Iterable[int]) -> bool:
    """Whether all have ended, if not been buried by whoever is their parent now."""
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def echoes(client: socket.socket, text: bytes = b"still here") -> bool:
    client.sendall(text)
    return client.recv(len(text), socket.MSG_WAITALL) == text


def refused(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=within(TIMEOUT)):
        return False
    return True


def stop(run_dir: Path, *arguments: str) -> tuple[int, str, str]:
    """`discovery stop`: its exit code, stdout and stderr."""
    command = [*DISCOVERY, "stop", "--run-dir", str(run_dir), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within(120), check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_daemon_is_killed_and_the_next_one_takes_its_workers_over(
    directory: Directory, start_daemon: Starter, named: Serve, tmp_path: Path
) -> None:
    """Point 14. Nobody is refused, no connection breaks, and what the registry says next is followed."""
    port = free_port()
    one, other = named("one"), named("other")
    directory.put("web", one.port)
    sets = [f'listen.web=["127.0.0.1:{port}","unix:{tmp_path}/web.sock"]', "workers=2"]
    daemon = proxy(start_daemon, directory.url, *sets)
    before = workers(daemon)
    assert len(before) == 2
    with Load(port, 2).running() as load, connect(port) as client, socket.socket(socket.AF_UNIX) as local:
        assert client.recv(4) == b"one\n"
        local.settimeout(within(TIMEOUT))
        local.connect(f"{tmp_path}/web.sock")
        assert local.recv(4) == b"one\n"
        kill(daemon)
        load.goes_on(300)
        assert echoes(client)
        assert echoes(local)
        assert "connections of tcpproxy are carried on" in daemon.log
        directory.put("web", other.port)
        following = proxy(start_daemon, directory.url, *sets, run_dir=daemon.run_dir)
        assert workers(following) == before
        answers(port, "other")
        load.goes_on(100)
        assert echoes(client)
        assert echoes(local)
        told = following.get("/api/consumers/tcpproxy")[1]["connections"]
        assert [each["backend"] for each in told if each["age"] > 0].count("b1") >= 2
        directory.put("web", one.port)
        answers(port, "one")
    assert load.failed == []
    assert following.stop() == 0
    assert processes(daemon.run_dir) == {}
    assert not Path(tmp_path, "web.sock").exists()
    assert refused(port)


@pytest.mark.timeout(600)
def test_daemons_in_a_crash_loop_cost_nobody_a_connection(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14. Also those that die before, while and after they have taken over."""
    port = free_port()
    directory.put("web", named("one").port)
    sets = [f"listen.web=127.0.0.1:{port}", "workers=2"]
    daemon = proxy(start_daemon, directory.url, *sets)
    before = workers(daemon)
    run = ["--registry", directory.url, "--plugin", "tcpproxy"]
    run += [part for each in sets for part in ("--set", f"tcpproxy.{each}")]
    with Load(port, 1).running() as load, connect(port) as client:
        assert client.recv(4) == b"one\n"
        kill(daemon)
        for number in range(6):
            crashing = start_daemon(*run, run_dir=daemon.run_dir)
            text = "took over a worker" if number % 2 else "running"
            eventually_sync(lambda daemon=crashing, text=text: text in daemon.log, text, 4 * TIMEOUT)
            time.sleep(0.01 * (number // 2))  # a different moment each time
            kill(crashing)
            load.goes_on(20)
        following = proxy(start_daemon, directory.url, *sets, run_dir=daemon.run_dir)
        assert workers(following) == before
        assert echoes(client)
    assert load.failed == []
    assert following.stop() == 0
    assert gone(before)


def test_the_next_daemon_has_another_configuration(directory: Directory, start_daemon: Starter, named: Serve) -> None:
    """Point 14. Listeners that were added and removed meanwhile, and more and fewer workers."""
    kept, removed, added = free_port(), free_port(), free_port()
    directory.put("web", named("one").port)
    daemon = proxy(
        start_daemon,
        directory.url,
        f"listen.web=127.0.0.1:{kept}",
        f"listen.old={{bind='127.0.0.1:{removed}',service='web'}}",
    )
    first = workers(daemon)
    with Load(kept, 2).running() as load, connect(removed) as client:
        assert client.recv(4) == b"one\n"
        kill(daemon)
        sets = [f"listen.web=127.0.0.1:{kept}", f"listen.new={{bind='127.0.0.1:{added}',service='web'}}"]
        more = proxy(start_daemon, directory.url, *sets, "workers=3", run_dir=daemon.run_dir)
        assert workers(more) > first
        assert len(workers(more)) == 3
        assert refused(removed)
        answers(added, "one")
        assert echoes(client)
        kill(more)
        fewer = proxy(start_daemon, directory.url, *sets, "workers=1", run_dir=daemon.run_dir)
        eventually_sync(lambda: len(workers(fewer)) <= 2, timeout=TIMEOUT)  # one may still have the client above
        answers(added, "one")
        assert echoes(client)
        client.close()
        eventually_sync(lambda: len(workers(fewer)) == 1, timeout=TIMEOUT)
    assert load.failed == []


def test_workers_of_other_code_hand_over_their_sockets_and_end(
    directory: Directory, start_daemon: Starter, named: Serve, tmp_path: Path
) -> None:
    """Point 14. As after an upgrade: new workers, nobody refused, and old connections until they end."""
    port = free_port()
    directory.put("web", named("one").port)
    sets = [f"listen.web=127.0.0.1:{port}", "workers=2"]
    daemon = proxy(start_daemon, directory.url, *sets)
    before = workers(daemon)
    package = Path(discovery_tcpproxy.__file__).parent
    shutil.copytree(package, tmp_path / "upgraded" / package.name)
    with (tmp_path / "upgraded" / package.name / "worker" / "report.py").open("a") as module:
        module.write("# It differs.\n")
    with Load(port, 2).running() as load, connect(port) as client:
        assert client.recv(4) == b"one\n"
        kill(daemon)
        start_daemon.environment["PYTHONPATH"] = str(tmp_path / "upgraded")
        following = proxy(start_daemon, directory.url, *sets, run_dir=daemon.run_dir)
        eventually_sync(lambda: len(workers(following) - before) == 2, "two new workers", TIMEOUT)
        load.goes_on(100)
        assert echoes(client)
        assert "a worker of other code ends with its last connection" in following.log
        kill(following)  # the old one is stopping, and is found all the same
        last = proxy(start_daemon, directory.url, *sets, "grace=1", run_dir=daemon.run_dir)
        assert echoes(client)
        client.close()
        eventually_sync(lambda: gone(before), "the old workers to end", TIMEOUT)
    assert load.failed == []
    assert last.stop() == 0
    assert processes(daemon.run_dir) == {}


def test_sigterm_ends_workers_without_a_daemon_in_order(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14. As systemd's stop does; with a daemon it is the daemon's to say."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", "workers=2")
    pids = workers(daemon)
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        kill(daemon)
        assert name_at(port) == "one"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        eventually_sync(lambda: echoes(client) and refused(port), "new clients to be refused", TIMEOUT)
        assert echoes(client)
    eventually_sync(lambda: gone(pids), "the workers to end", TIMEOUT)


def test_a_supervisor_that_signals_all_ends_all(directory: Directory, start_daemon: Starter, named: Serve) -> None:
    """Point 14. Workers that were sent SIGTERM do not go on if the daemon is killed before it could stop them."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", "workers=2", "grace=1")
    pids = workers(daemon)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    assert name_at(port) == "one"
    kill(daemon)
    eventually_sync(lambda: gone(pids), "the workers to end", TIMEOUT)


def test_workers_that_were_never_told_to_listen_end(directory: Directory, start_daemon: Starter) -> None:
    """Point 14. They serve nobody, and nobody would find them of use."""
    daemon = start_daemon(
        "--registry", directory.url, "--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=127.0.0.1:{free_port()}"
    )
    found = eventually_sync(lambda: descendants(daemon.process.pid), "a worker", TIMEOUT)
    kill(daemon)
    if not gone(found):
        stop(daemon.run_dir)
    eventually_sync(lambda: gone(found), timeout=TIMEOUT)


@pytest.mark.parametrize("command", ["forward", "ambassador"])
def test_drop_in_commands_are_taken_over_by_the_same_command(
    directory: Directory, start_command: StartCommand, named: Serve, command: str
) -> None:
    """Point 14. The consumer without a registry, too."""
    port, server = free_port(), named("one")
    directory.put("web", server.port)
    arguments = {
        "forward": ["forward", f"127.0.0.1:{server.port}", "--listen", f"127.0.0.1:{port}"],
        "ambassador": ["ambassador", "web", str(port), "--listen", "127.0.0.1", "--registry", directory.url],
    }[command]
    first = start_command(*arguments)
    answers(port, "one")
    [worker] = descendants(first.process.pid)
    with Load(port, 2).running() as load, connect(port) as client:
        assert client.recv(4) == b"one\n"
        first.process.kill()
        first.process.wait(within(TIMEOUT))
        load.goes_on(50)
        second = start_command(*arguments)
        second.logs("took over a worker of an earlier daemon")
        assert echoes(client)
    assert load.failed == []
    assert second.stop() == 0
    eventually_sync(lambda: gone([worker]), timeout=TIMEOUT)


def test_stop_ends_what_a_killed_daemon_left(directory: Directory, start_daemon: Starter, named: Serve) -> None:
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
        eventually_sync(lambda: echoes(client) and refused(port), "new clients to be refused", TIMEOUT)
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
    assert refused(web)
    code, out, error = stop(daemon.run_dir)
    assert (code, out, error) == (0, "", f"discovery: nothing runs on {daemon.run_dir}\n")


def test_workers_do_not_keep_the_stderr_of_a_stop_that_is_broken_off(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14. A shell that reads it would wait for their last connection."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", "grace=600")
    pids = workers(daemon)
    kill(daemon)
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        command = [*DISCOVERY, "stop", "--run-dir", str(daemon.run_dir)]
        stopping = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        eventually_sync(lambda: echoes(client) and refused(port), "new clients to be refused", TIMEOUT)
        stopping.kill()
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(stopping.communicate()[1]), daemon=True)
        reader.start()
        eventually_sync(lambda: echoes(client) and not reader.is_alive(), "the end of its stderr", TIMEOUT)
        assert "ends with its last connection" not in said[0]
        eventually_sync(lambda: echoes(client) and "ends with its last connection" in daemon.log, timeout=TIMEOUT)
    eventually_sync(lambda: gone(pids), "the worker to end", TIMEOUT)


def test_a_daemon_names_what_a_killed_one_left_that_it_does_not_take_over(
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
    code, out, _ = stop(daemon.run_dir)
    assert (code, "of haproxy" in out) == (0, True)
    assert refused(web)


def test_stop_ends_a_running_daemon_in_order(directory: Directory, start_daemon: Starter, named: Serve) -> None:
    """Point 14."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}")
    pids = workers(daemon)
    code, out, _ = stop(daemon.run_dir)
    assert (code, out) == (0, f"stopped daemon, process {daemon.process.pid} (tcpproxy)\n")
    assert daemon.process.wait(within(TIMEOUT)) == 0
    assert gone(pids)


def test_stop_names_a_daemon_that_does_not_end(directory: Directory, start_daemon: Starter, named: Serve) -> None:
    """Point 14. Its workers are left to it."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}")
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        code, out, error = stop(daemon.run_dir, "--timeout", "0.5")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert (code, out) == (1, "")
    assert f"process {daemon.process.pid} has not ended within 0.5 s" in error


def test_a_lock_names_only_a_process_that_holds_it(tmp_path: Path, start_daemon: Starter) -> None:
    """Point 14. The number in a lock that a killed daemon left may be another process's by now."""
    run_dir = tmp_path / "run"
    (run_dir / "edge").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        (run_dir / "edge" / "lock").write_text(f"{innocent.pid}\n")
        (run_dir / "daemon.sock.lock").write_text(f"{innocent.pid}\n")
        assert stop(run_dir)[0] == 0
        assert innocent.poll() is None
        innocent.kill()


def test_workers_are_found_although_a_cleaner_removed_the_run_directory(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 14."""
    port = free_port()
    directory.put("web", named("one").port)
    daemon = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}")
    pids = workers(daemon)
    kill(daemon)
    shutil.rmtree(daemon.run_dir)
    there: Callable[[], list[Path]] = lambda: list(daemon.run_dir.glob("tcpproxy/worker-*.sock"))  # noqa: E731
    eventually_sync(there, "the worker to be there again", TIMEOUT)
    following = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", run_dir=daemon.run_dir)
    assert workers(following) == pids
