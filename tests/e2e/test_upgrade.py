"""From discovery 0.1 (the commit e0f34d1) to this one and back: nobody is refused, and what 0.1 has left is read."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ambassadors import TIMEOUT
from daemons import Daemon, Starter
from etcds import etcd_of_its_own
from former_release import former_discovery
from proxies import Load, Serve
from requesting import Load as WebLoad
from requesting import Requests
from sampling import sampled
from sites import StartSite, site

from discovery.errors import DiscoveryError
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import cannot_run, eventually_sync, free_port, require_program, within

__all__ = ["etcd_of_its_own", "site"]

pytestmark = pytest.mark.timeout(600)

PRESENT = Path(sys.executable).with_name("discovery")


@pytest.fixture(scope="module")
def former() -> Path:
    """The program `discovery` of 0.1."""
    require_program("haproxy")
    try:
        return former_discovery()
    except DiscoveryError as error:
        cannot_run(str(error))


class Line:
    """Daemons of one configuration, HAProxy and TCP proxy, and of one run directory; each of one of two versions."""

    def __init__(self, start: Starter, url: str) -> None:
        self.web, self.tcp = free_port(), free_port()
        self.config = start.directory / "discovery.toml"
        self.config.write_text(
            f'[registry]\nurl = "{url}"\n'
            f'[consumers.edge]\nplugin = "haproxy"\nservices.web.bind = "127.0.0.1:{self.web}"\n'
            f'[consumers.tcp]\nplugin = "tcpproxy"\nlisten.echo = "127.0.0.1:{self.tcp}"\n'
        )
        self._start = start
        self._admin = f"127.0.0.1:{free_port()}"
        self.run_dir = start.directory / "run"

    def serves(self, *names: str) -> None:
        """Wait until each of `names` has answered a request."""
        missing = set(names)

        def all_have() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/", timeout=within(5)) as answer:
                    missing.discard(answer.read().decode())
            except OSError:  # 503, too: not yet
                return False
            return not missing

        eventually_sync(all_have, f"{', '.join(names)} to answer", TIMEOUT)

    def requests(self, *names: str) -> Requests:
        """Return clients that are to be answered by one of `names`."""
        return Requests(("127.0.0.1", self.web), "web", *names)

    def begin(self, program: Path, *arguments: str) -> Daemon:
        """Start a daemon of `program`, and wait until it is ready, and the daemon before it has ended."""
        before = self._start.started[-1:]
        config = ("--config", str(self.config))
        daemon = self._start(*config, *arguments, admin=self._admin, run_dir=self.run_dir, program=program)
        for each in before:
            assert each.process.wait(within(TIMEOUT)) == 0, each.log
        eventually_sync(lambda: daemon.process.poll() is not None or is_ready(daemon), "it to be ready", TIMEOUT)
        assert daemon.process.poll() is None, daemon.log
        return daemon


def is_ready(daemon: Daemon) -> bool:
    try:
        return daemon.is_ready()
    except OSError:
        return False


@contextmanager
def registered(program: Path, url: str, directory: Path, service: str, name: str, port: int) -> Iterator[None]:
    """Keep a backend registered by the command of `program`; the command must be able to end."""
    command = [program, "register", service, f"127.0.0.1:{port}", "--id", name, "--registry", url]
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*command, "--run-dir", directory / name], stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (directory / f"{name}.log").read_text()
        process.terminate()
        assert process.wait(within(TIMEOUT)) == 0, (directory / f"{name}.log").read_text()
    finally:  # also after a failure, which stays the one that is told
        process.kill()
        process.wait()


def test_run_replace_to_this_release_and_back_fails_nobody(
    former: Path, etcd: EmbeddedEtcd, start_daemon: Starter, site: StartSite, named: Serve, tmp_path: Path
) -> None:
    """Each version follows what the other registers, and takes the listening sockets, HAProxy and workers over."""
    line = Line(start_daemon, etcd.url)
    one, two, three = site("one"), site("two"), site("three")
    with (
        registered(former, etcd.url, tmp_path, "web", "one", one.port),
        registered(PRESENT, etcd.url, tmp_path, "web", "two", two.port),
        registered(PRESENT, etcd.url, tmp_path, "echo", "echo", named("echo").port),
    ):
        line.begin(former)
        line.serves("one", "two")
        web, tcp = line.requests("one", "two", "three"), Load(line.tcp, 2)
        with WebLoad({"web": web}).running(), tcp.running():
            for name in ("one", "two"):
                web.wait_for(name)
            upgraded = line.begin(PRESENT, "--replace")
            tcp.goes_on()
            with registered(former, etcd.url, tmp_path, "web", "three", three.port):
                for name in ("one", "two", "three"):
                    web.wait_for(name)
                back = line.begin(former, "--replace")
                tcp.goes_on()
                for name in ("one", "two", "three"):
                    web.wait_for(name)
            again = line.begin(PRESENT, "--replace")
            tcp.goes_on()
            web.wait_for("one")
        assert (web.failed, tcp.failed) == ([], [])
        assert again.stop() == 0
    for daemon in (upgraded, back, again):
        assert "Traceback" not in daemon.log


@pytest.mark.parametrize("direction", sampled(["to this release", "back"]))
def test_a_restart_in_another_version_serves_what_was_remembered_while_the_registry_is_down(
    former: Path, start_daemon: Starter, site: StartSite, direction: str
) -> None:
    """The last good snapshot on disk is that of the other version."""
    before, after = (former, PRESENT) if direction == "to this release" else (PRESENT, former)
    one = site("one")
    with EmbeddedEtcd() as etcd:
        line = Line(start_daemon, etcd.url)
        with registered(PRESENT, etcd.url, start_daemon.directory, "web", "one", one.port):
            daemon = line.begin(before)
            line.serves("one")
            assert daemon.stop() == 0
            etcd.kill()
        daemon = line.begin(after)
        line.serves("one")
        web = line.requests("one")
        with WebLoad({"web": web}).running(1):
            web.wait_for("one")
        assert web.failed == []
        assert "Traceback" not in daemon.log
