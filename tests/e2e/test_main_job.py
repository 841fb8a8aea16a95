"""The main job: a record in the registry, and a moment later HAProxy sends it traffic, with nothing done by hand."""

import fcntl
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter
from etcd_versions import etcd_program, every_etcd
from sites import StartSite, site

from discovery.system.embedded import EmbeddedEtcd, find_program
from discovery.testing import eventually_sync, free_port, require_program, within

__all__ = ["etcd_program", "every_etcd", "site"]


def fetch(port: int, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=within(5)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def answers(port: int, expected: tuple[int, str], host: str | None = None) -> None:
    eventually_sync(lambda: fetch(port, host) == expected, f"{expected} from port {port}", timeout=20)


def etcdctl(etcd: EmbeddedEtcd, *arguments: str) -> None:
    subprocess.run(
        [find_program("etcdctl"), "--endpoints", etcd.endpoint, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"ETCDCTL_API": "3"},
    )


def test_put_is_served_and_delete_is_503(every_etcd: EmbeddedEtcd, start_daemon: Starter, site: StartSite) -> None:
    """Point 1: on every version of etcd."""
    require_program("haproxy")
    port, one = free_port(), site("one")
    daemon = start_daemon(
        "--plugin", "haproxy", "--registry", every_etcd.url, "--set", f"haproxy.services.web.bind=127.0.0.1:{port}"
    )
    answers(port, (503, ""))
    etcdctl(every_etcd, "put", "/services/web/b1", f'{{"host":"127.0.0.1","port":{one.port}}}')
    answers(port, (200, "one"))
    etcdctl(every_etcd, "del", "/services/web/b1")
    answers(port, (503, ""))
    assert f"web  http 127.0.0.1:{port}" in daemon.log
    assert daemon.stop() == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(port)


def test_the_same_with_a_file_registry_and_register(tmp_path: Path, start_daemon: Starter, site: StartSite) -> None:
    require_program("haproxy")
    registry = tmp_path / "registry"
    registry.mkdir()
    port, one = free_port(), site("one")
    start_daemon(
        "--plugin",
        "haproxy",
        "--registry",
        f"file://{registry}",
        "--set",
        f"haproxy.services.web.bind=127.0.0.1:{port}",
    )
    answers(port, (503, ""))
    command = [sys.executable, "-m", "discovery", "register", "web", f"127.0.0.1:{one.port}"]
    command += ["--registry", f"file://{registry}", "--run-dir", str(tmp_path / "register")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as registration:
        answers(port, (200, "one"))
        registration.terminate()
        assert registration.wait(within(20)) == 0
    answers(port, (503, ""))


@pytest.fixture
def default_port() -> Iterator[int]:
    """The port of the bare command, for one test at a time, of however many suites run on this machine."""
    directory = os.open(tempfile.gettempdir(), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    yield 8080
    os.close(directory)


def test_bare_command_serves_a_lone_service_and_two_by_host_name(
    default_port: int, file_registry: RecordFiles, start_daemon: Starter, site: StartSite
) -> None:
    require_program("haproxy")
    url, write = file_registry
    one, two = site("one"), site("two")
    write("alpha/b1", f"127.0.0.1:{one.port}")
    daemon = start_daemon("--plugin", "haproxy", "--registry", url)
    answers(default_port, (200, "one"))
    answers(default_port, (200, "one"), host="anything.example")
    write("beta/b1", f"127.0.0.1:{two.port}")
    answers(default_port, (200, "two"), host="beta")
    answers(default_port, (200, "two"), host="beta.example.com")
    answers(default_port, (200, "one"), host="alpha.example.com:8080")
    answers(default_port, (503, ""), host="gamma.example.com")
    assert daemon.stop() == 0


def test_sigkill_and_start_again_is_one_haproxy_with_one_configuration(
    file_registry: RecordFiles, start_daemon: Starter, site: StartSite, tmp_path: Path
) -> None:
    require_program("haproxy")
    url, write = file_registry
    port, one, two = free_port(), site("one"), site("two")
    write("web/b1", f"127.0.0.1:{one.port}")
    arguments = ("--plugin", "haproxy", "--registry", url, "--set", f"haproxy.services.web.bind=127.0.0.1:{port}")
    first = start_daemon(*arguments, run_dir=tmp_path / "run")
    answers(port, (200, "one"))
    first.process.kill()
    first.process.wait()
    assert fetch(port) == (200, "one")
    write("web/b1", f"127.0.0.1:{two.port}")
    second = start_daemon(*arguments, run_dir=tmp_path / "run")
    answers(port, (200, "two"))
    assert {fetch(port) for _ in range(50)} == {(200, "two")}
    assert len(masters(tmp_path / "run")) == 1
    assert second.stop() == 0
    eventually_sync(lambda: not masters(tmp_path / "run"))


def masters(run_dir: Path) -> set[int]:
    """The HAProxy processes of this run directory that are no worker of another one."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (place / "cmdline").read_bytes().decode().split("\0")
            parent = int((place / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        if any(argument.startswith(f"{run_dir}/haproxy/master.sock") for argument in arguments):
            found[int(place.name)] = parent
    return {pid for pid, parent in found.items() if parent not in found}


@pytest.mark.costly
def test_bad_input_is_one_line_and_the_documented_code(start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, _ = file_registry
    for arguments, code, message in (
        (("--plugin", "haprxy"), 2, "did you mean 'haproxy'?"),
        (("--plugin", "haproxy", "--set", "haproxy.servces.web.bind=0.0.0.0:80"), 2, "did you mean 'services'?"),
        (("--plugin", "haproxy", "--set", "haproxy.services.web.bnd=0.0.0.0:80"), 2, "did you mean 'bind'?"),
        (("--plugin", "haproxy", "--set", "haproxy.services.web.bind=127.0.0.1:http"), 2, "127.0.0.1:http"),
        (("--plugin", "haproxy", "--set", "haproxy.maxconn=many"), 2, "haproxy.maxconn"),
        (("--plugin", "haproxy", "--once"), 2, "drives ends with the daemon"),
        (("--plugin", "haproxy", "--nonsense"), 2, "--nonsense"),
        (("--plugin", "haproxy", "--config", "no-such-file.toml"), 2, "no-such-file.toml"),
        ((), 2, "nothing to run"),
    ):
        daemon = start_daemon("--registry", url, *arguments)
        assert daemon.process.wait(within(20)) == code, daemon.log
        assert message in daemon.log
        assert len(daemon.log.strip().splitlines()) == 1, daemon.log


@pytest.mark.costly
def test_a_missing_haproxy_and_a_busy_port_are_retried_and_named(
    file_registry: RecordFiles, start_daemon: Starter, site: StartSite, tmp_path: Path
) -> None:
    require_program("haproxy")
    url, write = file_registry
    one = site("one")
    write("web/b1", f"127.0.0.1:{one.port}")
    late, busy = free_port(), free_port()
    missing = start_daemon(
        *("--registry", url, "--plugin", "haproxy", "--set", f"haproxy.binary={tmp_path / 'haproxy'}"),
        *("--set", f"haproxy.services.web.bind=127.0.0.1:{late}"),
    )
    holder = ThreadingHTTPServer(("127.0.0.1", busy), BaseHTTPRequestHandler)
    taken = start_daemon(
        "--registry", url, "--plugin", "haproxy", "--set", f"haproxy.services.web.bind=127.0.0.1:{busy}"
    )
    # HAProxy serves all but the busy port, so that this daemon is ready; the health names the port.
    for daemon, named, ready in (
        (missing, str(tmp_path / "haproxy"), 503),
        (taken, f"127.0.0.1:{busy} is in use", 200),
    ):
        eventually_sync(lambda d=daemon, n=named: n in (d.consumer("haproxy")["problem"] or ""), timeout=20)
        assert daemon.get("/healthz")[0] == 503
        eventually_sync(lambda d=daemon, code=ready: d.get("/readyz")[0] == code, timeout=20)
        assert "Traceback" not in daemon.log
    holder.server_close()
    (tmp_path / "haproxy").symlink_to(require_program("haproxy"))
    answers(busy, (200, "one"))
    answers(late, (200, "one"))
