"""A run directory that a cleaner removes, whole or in part, while a daemon runs on it; and those that are refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from ambassadors import TIMEOUT, Directory, StartCommand, name_at
from daemons import Daemon, Starter, processes
from proxies import Serve, answers
from sampling import sampled

from discovery.system.rundir import holder
from discovery.testing import cannot_run, eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm


def serving(start: Starter, directory: Directory, *arguments: str) -> tuple[Daemon, int, int]:
    """A daemon with HAProxy and the TCP proxy, and the ports of both."""
    require_program("haproxy")
    web, tcp = free_port(), free_port()
    daemon = start(
        *("--registry", directory.url, "--plugin", "tcpproxy", "--plugin", "haproxy"),
        *("--set", f"tcpproxy.listen.web=127.0.0.1:{tcp}"),
        *("--set", f"haproxy.services.web.bind=127.0.0.1:{web}", "--set", "haproxy.services.web.mode=tcp", *arguments),
    )
    eventually_sync(daemon.is_ready, "the daemon to be ready", TIMEOUT)
    return daemon, web, tcp


def is_whole(daemon: Daemon) -> bool:
    """Whether everything is there that a daemon keeps in its run directory."""
    pid = daemon.process.pid
    return (
        holder(daemon.run_dir / "daemon.sock.lock") == pid
        and all(holder(daemon.run_dir / name / "lock") == pid for name in ("haproxy", "tcpproxy"))
        and (daemon.run_dir / "daemon.sock").is_socket()
        and all((daemon.run_dir / "haproxy" / name).is_socket() for name in ("master.sock", "stats.sock"))
        and (daemon.run_dir / "haproxy" / "log.pipe").is_fifo()
        and (daemon.run_dir / "haproxy" / "haproxy.cfg").is_file()
        and len(list(daemon.run_dir.glob("tcpproxy/worker-*.sock"))) == 1
    )


def remove_all(run_dir: Path) -> None:
    shutil.rmtree(run_dir, ignore_errors=True)  # the daemon may be quicker at one place than we are at the next


def remove_locks_and_sockets(run_dir: Path) -> None:
    for path in run_dir.rglob("*"):
        if not path.is_dir() and (path.name.endswith("lock") or path.is_socket() or path.is_fifo()):
            path.unlink()


def remove_contents(run_dir: Path) -> None:
    for path in run_dir.iterdir():
        remove_all(path) if path.is_dir() else path.unlink()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("remove", sampled([remove_all, remove_locks_and_sockets, remove_contents]))
def test_what_a_cleaner_removed_is_made_and_locked_again(
    directory: Directory, start_daemon: Starter, named: Serve, remove: Callable[[Path], None]
) -> None:
    """Point 26."""
    one, other = named("one"), named("other")
    directory.put("web", one.port)
    daemon, web, tcp = serving(start_daemon, directory)
    eventually_sync(lambda: is_whole(daemon), "everything to be there", TIMEOUT)
    remove(daemon.run_dir)
    eventually_sync(lambda: is_whole(daemon), "everything to be there again", TIMEOUT)
    assert "files had been removed from the run directory, and were made again" in daemon.log
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200, "the daemon to be well", TIMEOUT)
    directory.put("web", other.port)
    answers(web, "other")
    answers(tcp, "other")
    options = ["--plugin", "haproxy", "--set", f"haproxy.services.web.bind=127.0.0.1:{free_port()}"]
    second = start_daemon("--registry", directory.url, *options, run_dir=daemon.run_dir)
    assert second.process.wait(within(TIMEOUT)) == 1
    assert f"already running as process {daemon.process.pid}" in second.log
    assert name_at(web) == "other"
    assert daemon.stop() == 0
    assert processes(daemon.run_dir) == {}


@pytest.mark.costly
def test_what_cannot_be_made_again_is_told_in_log_and_health(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    """Point 26. The daemon tries again until it can."""
    directory.put("web", named("one").port)
    daemon, _, tcp = serving(start_daemon, directory)
    eventually_sync(lambda: _replace_by_a_file(daemon.run_dir), "a file in its place", TIMEOUT)
    eventually_sync(lambda: daemon.get("/healthz")[0] == 503, "the daemon to be unwell", TIMEOUT)
    reason = f"the run directory {daemon.run_dir} cannot be made: File exists"
    for name in ("haproxy", "tcpproxy"):
        eventually_sync(lambda name=name: reason in daemon.get("/healthz")[1]["problems"][name], timeout=TIMEOUT)
    eventually_sync(lambda: "cannot be made again" in daemon.log, timeout=TIMEOUT)
    assert name_at(tcp) == "one"
    daemon.run_dir.unlink()
    eventually_sync(lambda: is_whole(daemon), "everything to be there again", TIMEOUT)
    eventually_sync(lambda: daemon.get("/healthz")[0] == 200, "the daemon to be well", TIMEOUT)


def _replace_by_a_file(path: Path) -> bool:
    remove_all(path)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:  # the daemon was quicker
        return False
    return True


def test_a_register_command_keeps_its_lock(directory: Directory, start_command: StartCommand, named: Serve) -> None:
    """Point 26. Two of one key would take it from each other forever."""
    arguments = ["register", "web", f"127.0.0.1:{named('one').port}", "--id", "b1", "--registry", directory.url]
    first = start_command(*arguments)
    run_dir = Path(start_command.environment["DISCOVERY_RUN_DIR"])

    def locked() -> bool:
        return [holder(path) for path in run_dir.glob("register-*.lock")] == [first.process.pid]

    first.logs("registered web/b1")
    assert locked()
    remove_all(run_dir)
    eventually_sync(locked, "its lock to be there again", TIMEOUT)
    second = start_command(*arguments)
    assert second.process.wait(within(TIMEOUT)) == 1
    second.logs(f"is already running as process {first.process.pid}")


@pytest.mark.costly
@pytest.mark.parametrize("command", ["run", "stop"])
def test_a_run_directory_that_others_can_write_to_is_refused_by_name(
    directory: Directory, tmp_path: Path, command: str
) -> None:
    """Points 17 and 25."""
    if os.geteuid() != 0:
        cannot_run("needs another user's directory")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    arguments = {
        "run": ["run", "--registry", directory.url, "--plugin", "tcpproxy", "--set", "tcpproxy.listen.web=127.0.0.1:1"],
        "stop": ["stop"],
    }[command]

    def refused() -> str:
        done = warm.run(*arguments, "--run-dir", str(run_dir), env=os.environ, timeout=within(60))
        assert done.returncode == 1
        return done.stderr

    run_dir.chmod(0o777)
    assert f"the run directory {run_dir} can be written to by others (its mode is 777); run `chmod go-w" in refused()
    run_dir.chmod(0o755)
    os.chown(run_dir, 65534, -1)
    assert f"the run directory {run_dir} belongs to another user, nobody; choose another" in refused()


@pytest.mark.costly
def test_config_check_names_a_run_directory_that_a_daemon_would_refuse(directory: Directory, tmp_path: Path) -> None:
    """Points 25 and 26: one that others can write to, and one that is too long a path for HAProxy's sockets."""
    require_program("haproxy")
    config, run_dir = tmp_path / "discovery.toml", tmp_path / "run"

    def faults(path: Path) -> str:
        text = f'run_dir = "{path}"\n[registry]\nurl = "{directory.url}"\n[consumers.edge]\nplugin = "haproxy"\n'
        config.write_text(text)
        done = warm.run("config", "check", "--offline", str(config), env=os.environ, timeout=within(60))
        assert done.returncode == 2
        return done.stderr

    run_dir.mkdir()
    run_dir.chmod(0o777)
    assert f"the run directory {run_dir} can be written to by others" in faults(run_dir)
    assert f"{tmp_path}/{'x' * 100}/edge/master.sock is a path of more than 97 bytes" in faults(tmp_path / ("x" * 100))
