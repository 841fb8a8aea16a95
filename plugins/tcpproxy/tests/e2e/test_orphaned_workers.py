"""The daemon is killed: its workers go on, and the next daemon takes them over."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect, descendants, name_at
from daemons import Starter, processes, run_stop
from proxies import Load, Serve, answers, proxy

import discovery_tcpproxy
from discovery.testing import eventually_sync, free_port, within

from .serving import ServeWeb, echoes, have_ended, is_refused, kill, workers

pytestmark = pytest.mark.warm


def is_pending(number: signal.Signals, pid: int) -> bool:
    """Return True if the kernel has not yet delivered a signal that was sent to the process."""
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) >> (number - 1) & 1)


def test_the_next_daemon_adopts_the_workers_of_a_killed_daemon(
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
        assert "connections of tcpproxy continue" in daemon.log
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
    assert is_refused(port)


@pytest.mark.timeout(600)
def test_daemons_in_a_crash_loop_break_no_connection(
    serve_web: ServeWeb, directory: Directory, start_daemon: Starter
) -> None:
    """Point 14. Also those that die before, while and after they have taken over."""
    port, daemon = serve_web("workers=2")
    sets = [f"listen.web=127.0.0.1:{port}", "workers=2"]
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
    assert have_ended(before)


def test_the_next_daemon_applies_another_configuration_to_adopted_workers(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
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
        assert is_refused(removed)
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


@pytest.mark.costly
def test_workers_of_other_code_hand_over_their_sockets_and_end(
    serve_web: ServeWeb, directory: Directory, start_daemon: Starter, tmp_path: Path
) -> None:
    """Point 14. As after an upgrade: new workers, nobody refused, and old connections until they end."""
    port, daemon = serve_web("workers=2")
    sets = [f"listen.web=127.0.0.1:{port}", "workers=2"]
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
        eventually_sync(lambda: have_ended(before), "the old workers to end", TIMEOUT)
    assert load.failed == []
    assert last.stop() == 0
    assert processes(daemon.run_dir) == {}


def test_sigterm_ends_an_orphaned_worker_after_its_connections(serve_web: ServeWeb) -> None:
    """Point 14. As systemd's stop does; with a daemon it is the daemon's to say."""
    port, daemon = serve_web("workers=2")
    pids = workers(daemon)
    with connect(port) as client:
        assert client.recv(4) == b"one\n"
        kill(daemon)
        assert name_at(port) == "one"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        eventually_sync(lambda: echoes(client) and is_refused(port), "new clients to be refused", TIMEOUT)
        assert echoes(client)
    eventually_sync(lambda: have_ended(pids), "the workers to end", TIMEOUT)


def test_sigterm_to_all_workers_ends_the_workers_once_the_daemon_is_killed(serve_web: ServeWeb) -> None:
    """Point 14. Workers that were sent SIGTERM do not go on if the daemon is killed before it could stop them."""
    port, daemon = serve_web("workers=2", "grace=1")
    pids = workers(daemon)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    eventually_sync(lambda: not any(is_pending(signal.SIGTERM, pid) for pid in pids), "the signals to arrive", TIMEOUT)
    assert workers(daemon) == pids  # each worker answers after it has handled the signal
    assert name_at(port) == "one"
    kill(daemon)
    eventually_sync(lambda: have_ended(pids), "the workers to end", TIMEOUT)


@pytest.mark.costly
def test_orphaned_workers_without_a_listener_end(directory: Directory, start_daemon: Starter) -> None:
    """Point 14. They serve nobody, and nobody would find them of use."""
    daemon = start_daemon(
        "--registry", directory.url, "--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=127.0.0.1:{free_port()}"
    )
    found = eventually_sync(lambda: descendants(daemon.process.pid), "a worker", TIMEOUT)
    kill(daemon)
    if not have_ended(found):
        run_stop(daemon.run_dir)
    eventually_sync(lambda: have_ended(found), timeout=TIMEOUT)


@pytest.mark.parametrize("command", ["forward", "ambassador"])
def test_a_drop_in_command_adopts_the_worker_of_the_same_command(
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
    eventually_sync(lambda: have_ended([worker]), timeout=TIMEOUT)


def test_workers_are_found_after_the_removal_of_the_run_directory(
    serve_web: ServeWeb, directory: Directory, start_daemon: Starter
) -> None:
    """Point 14."""
    port, daemon = serve_web()
    pids = workers(daemon)
    kill(daemon)
    # In one step: while the files are removed one by one, the worker already makes its own again.
    daemon.run_dir.rename(daemon.run_dir.with_name("removed"))
    shutil.rmtree(daemon.run_dir.with_name("removed"))
    there: Callable[[], list[Path]] = lambda: list(daemon.run_dir.glob("tcpproxy/worker-*.sock"))  # noqa: E731
    eventually_sync(there, "the worker to be there again", TIMEOUT)
    following = proxy(start_daemon, directory.url, f"listen.web=127.0.0.1:{port}", run_dir=daemon.run_dir)
    assert workers(following) == pids
