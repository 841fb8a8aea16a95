"""`discovery wait` and `/api/wait`: return with the apply they wait for, and a rollout script relies on them."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import warm
from daemons import DISCOVERY, Daemon, Starter
from etcds import etcd_of_its_own

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own"]

ROLLOUT = Path(__file__).parents[2] / "examples/rollout/rollout.sh"
PLUGIN = """
import time
from pathlib import Path
from discovery import Consumer, PluginConfig, hookimpl

class Options(PluginConfig):
    blocks: Path

class Follows(Consumer[Options]):
    Config = Options

    def apply(self, update):
        while self.config.blocks.exists():
            time.sleep(0.01)

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def wait(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ("wait", *arguments, "--admin", daemon.admin, "--config", "/dev/null")
    return warm.run(*command, env=os.environ, timeout=within(120))


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[Path]:
    """A file whose existence blocks the applies of `daemon`."""
    path = tmp_path / "blocks"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path: Path, blocks: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> Daemon:
    plugin = tmp_path / "follows.py"
    plugin.write_text(PLUGIN)
    options = ["--plugin", str(plugin), "--set", f"follows.blocks={blocks}"]
    daemon = start_daemon("--registry", etcd.url, *options)
    eventually_sync(daemon.is_ready, timeout=60)
    return daemon


def applied_at(daemon: Daemon, key: str) -> float:
    """The instant (`time.time()`) at which the consumer had applied the change that names `key`."""

    def find() -> dict[str, Any] | None:
        changes = daemon.get("/api/history")[1]["changes"]
        (change,) = (each for each in changes if key in {it["key"] for it in each["changes"]})
        return dict(change) if change["consumers"]["follows"] else None

    eventually_sync(lambda: find() is not None, key)
    change = find()
    assert change is not None
    arrived = datetime.fromisoformat(change["time"]).timestamp()
    return float(arrived + change["consumers"]["follows"]["applied_ms"] / 1000)


def test_it_returns_with_the_apply_and_not_with_the_put(daemon: Daemon, blocks: Path, etcd: EmbeddedEtcd) -> None:
    def poll(query: str) -> tuple[float, Any]:
        with urllib.request.urlopen(f"http://{daemon.admin}/api/wait?{query}", timeout=within(60)):
            return time.time(), None

    def run() -> tuple[float, subprocess.CompletedProcess[str]]:
        done = wait(daemon, "web", "--applied-by", "follows")
        return time.time(), done

    with ThreadPoolExecutor() as threads:
        seen = threads.submit(poll, "service=web")
        applied = threads.submit(poll, "service=web&applied_by=follows&timeout=25s")
        command = threads.submit(run)
        blocks.touch()
        etcd.ctl("put", "/services/web/a", "127.0.0.1:1001")
        seen.result(within(20))
        assert not applied.done(), "the daemon has the snapshot, and the consumer has not applied it"
        eventually_sync(lambda: len(daemon.clients()) == 2, "the poll and the command to wait", timeout=60)
        blocks.unlink()
        ended, _ = applied.result(within(20))
        exited, done = command.result(within(60))
        at = applied_at(daemon, "web/a")
        print(
            f"after the apply: HTTP {1000 * (ended - at):.1f} ms, command {1000 * (exited - at):.1f} ms (bar: 100 ms)"
        )
        assert max(ended, exited) - at < within(1), "ten times the bar, for a loaded machine"
    assert done.returncode == 0
    assert done.stdout.startswith("web: follows has applied 1 backends at revision ")


def test_the_exit_code_tells_why_it_ends(daemon: Daemon, etcd: EmbeddedEtcd, start_daemon: Starter) -> None:
    late = wait(daemon, "web", "--timeout", "300ms", "--backends", "2")
    assert (late.returncode, late.stdout) == (3, "")
    assert "the daemon has 0 of 2 backends after 0.3 s" in late.stderr
    unknown = wait(daemon, "web", "--applied-by", "nobody")
    assert unknown.returncode == 2
    assert "there is no consumer 'nobody'; there are: follows" in unknown.stderr
    assert wait(daemon, "we b").returncode == 2
    never = wait(daemon, "web", "--backends", "2", "--at-most", "1")
    assert never.returncode == 2
    assert "can never be so" in never.stderr
    etcd.ctl("put", "/services/web/a", "127.0.0.1:1001")
    assert wait(daemon, "web", "--json").returncode == 0
    assert wait(daemon, "web", "--at-most", "0", "--timeout", "0").returncode == 3
    etcd.ctl("del", "/services/web/a")
    assert wait(daemon, "web", "--at-most", "0", "--applied-by", "follows").returncode == 0
    far = wait(daemon, "web", "--at-most", "0", "--revision", "999999", "--timeout", "0")
    assert far.returncode == 3
    assert "and not 999999" in far.stderr
    assert daemon.stop() == 0
    away = wait(daemon, "web", "--timeout", "1")
    assert away.returncode == 1
    assert "no daemon answers" in away.stderr


def test_a_wrong_question_is_refused(daemon: Daemon) -> None:
    rule = "the service name 'we/b' is not valid: a name has 1-128 letters"
    wrong = {
        "wait": "service=NAME&backends=N&at_most=N&applied_by=CONSUMER&revision=R&timeout=DURATION",
        "wait?service=web&backends=-1": "backends has to be",
        "wait?service=web&backends=3&at_most=2": "can never be so",
        "wait?service=web&timeout=26": "25",
        "wait?service=web&revision=x": "revision has to be",
        "wait?service=we/b": rule,
        "explain": "service=NAME&id=ID",
        "explain?service=we/b": rule,
        "history?service=we/b": rule,
    }
    answers = {question: daemon.get(f"/api/{question}") for question in wrong}
    assert {question: status for question, (status, _) in answers.items()} == dict.fromkeys(wrong, 400)
    assert [question for question, (_, told) in answers.items() if wrong[question] not in told["error"]] == []


def asked(daemon: Daemon, query: str) -> http.client.HTTPConnection:
    """Return a connection whose question the daemon has read: the daemon has answered a later one."""
    connection = http.client.HTTPConnection(daemon.admin, timeout=within(25))
    connection.request("GET", f"/api/wait?{query}")
    assert daemon.get("/healthz")[0] == 200
    return connection


def test_waiters_are_bounded_and_leave_the_endpoint_to_others(daemon: Daemon, etcd: EmbeddedEtcd) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(closing(asked(daemon, "service=web&timeout=25"))) for _ in range(16)]
        assert daemon.get("/api/wait?service=web&timeout=25")[0] == 503
        etcd.ctl("put", "/services/web/a", "127.0.0.1:1001")
        assert [each.getresponse().status for each in waiting] == [200] * 16
    assert daemon.get("/api/wait?service=none&timeout=0")[0] == 200


def test_a_daemon_that_ends_waits_for_no_waiter(daemon: Daemon) -> None:
    with closing(asked(daemon, "service=none&timeout=25")) as waiting:
        assert daemon.stop() == 0
        answer = waiting.getresponse()
        assert (answer.status, json.load(answer)["met"]) == (200, False)


def test_a_pattern_stands_for_each_consumer_whose_name_matches(daemon: Daemon, etcd: EmbeddedEtcd) -> None:
    etcd.ctl("put", "/services/web/a", "127.0.0.1:1001")
    met = wait(daemon, "web", "--applied-by", "foll*", "--applied-by", "*", "--json")
    assert (met.returncode, json.loads(met.stdout)["backends"]) == (0, {"follows": 1})
    none = wait(daemon, "web", "--applied-by", "none*")
    assert none.returncode == 2
    assert "there is no consumer 'none*'; there are: follows" in none.stderr


def test_the_shell_completes_the_names_of_consumers(daemon: Daemon) -> None:
    def completed(line: str) -> str:
        words = {"_DISCOVERY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        return warm.run(env={**os.environ, **words}, timeout=within(60)).stdout.strip()

    assert completed(f"discovery wait web --admin {daemon.admin} --applied-by f") == "follows"
    assert completed(f"discovery wait web --admin {daemon.admin} --applied-by x") == ""
    assert completed(f"discovery wait web --admin 127.0.0.1:{free_port()} --applied-by f") == ""


@pytest.fixture
def site(
    tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Callable[[str], list[str]]]:
    """HAProxy before the service `web`: its port, and what makes the command of an instance of a version."""
    require_program("haproxy")
    port, server = free_port(), tmp_path / "server.py"
    server.write_text(SERVER)
    daemon = start_daemon(
        *("--registry", etcd.url, "--plugin", "haproxy", "--set", f"haproxy.services.web.bind=127.0.0.1:{port}")
    )
    monkeypatch.setenv("DISCOVERY_ADMIN", daemon.admin)
    eventually_sync(daemon.is_ready, timeout=60)

    def instance(version: str) -> list[str]:
        own = free_port()
        common = ["--registry", etcd.url, "--run-dir", str(tmp_path / "instances"), "--config", "/dev/null"]
        program = [sys.executable, str(server), str(own), version]
        return [*DISCOVERY, "register", "web", f"127.0.0.1:{own}", *common, "--", *program]

    return port, instance


def test_a_rollout_loses_no_request(site: tuple[int, Callable[[str], list[str]]]) -> None:
    port, instance = site
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TIMEOUT": "60s"}
    over, seen = Event(), list[str]()

    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=within(20)) as answer:
            return str(answer.read().decode())

    def load() -> None:
        while not over.is_set():
            seen.append(fetch())
            time.sleep(0.01)

    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        old = subprocess.Popen(instance("v1"))
        stack.callback(lambda: (old.terminate(), old.wait(within(20))))
        eventually_sync(lambda: fetch() == "v1", timeout=60)
        stack.callback(over.set)
        loading = threads.submit(load)
        command = [str(ROLLOUT), "web", "haproxy", "1", str(old.pid), *instance("v2")]
        # Files, not pipes: the new instance keeps them open.
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=within(120), check=False)
        assert done.returncode == 0
        new = int(done.stdout)
        try:
            eventually_sync(lambda: seen[-20:] == ["v2"] * 20, timeout=60)
            assert old.wait(within(20)) == 128 + signal.SIGTERM, "of the program, which was told to end"
            over.set()
            loading.result()
            assert set(seen) == {"v1", "v2"}
        finally:
            os.kill(new, signal.SIGTERM)
            eventually_sync(
                lambda: not Path(f"/proc/{new}").exists() or "Z (" in Path(f"/proc/{new}/status").read_text()
            )


def test_a_rollout_of_an_instance_that_never_works_leaves_the_old_one(
    site: tuple[int, Callable[[str], list[str]]],
) -> None:
    port, instance = site
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TIMEOUT": "3s"}
    old = subprocess.Popen(instance("v1"))
    try:
        url = f"http://127.0.0.1:{port}/"
        eventually_sync(lambda: urllib.request.urlopen(url, timeout=within(10)).read() == b"v1", timeout=60)
        command = [str(ROLLOUT), "web", "haproxy", "1", str(old.pid), "sleep", "600"]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=within(120), check=False)
        assert done.returncode == 1
        assert b"the old one stays" in done.stderr
        assert old.poll() is None
    finally:
        old.terminate()
        old.wait(within(20))


@pytest.mark.parametrize("count", ["many", "", "a[1]", "-1"])
def test_a_rollout_with_a_wrong_count_starts_nothing(tmp_path: Path, count: str) -> None:
    command = [str(ROLLOUT), "web", "haproxy", count, "999999999", "touch", str(tmp_path / "started")]
    done = subprocess.run(command, env={**os.environ, "TIMEOUT": "0"}, capture_output=True, check=False)
    assert (done.returncode, b"is not the number of backends" in done.stderr) == (2, True)
    assert not (tmp_path / "started").exists()
