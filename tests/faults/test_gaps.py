"""Point 3. etcd stands still for longer than a lease lasts, or loses its data: no request fails, with default settings.

Real registrars, real HAProxy, requests all the time; on every version of etcd, with leased and unleased records, and
with the daemon restarted during the hold.
"""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from daemons import DISCOVERY, Daemon, Starter, start_daemon, tmp_path
from etcd_versions import VERSIONS, etcd_program, every_etcd
from sampling import sampled

from discovery.registry import Delta, RegistryEvent, Stale, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import backend, eventually, eventually_sync, free_port, require_program, within
from discovery.testing.etcd import EtcdCluster

__all__ = ["etcd_program", "every_etcd", "start_daemon", "tmp_path"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TIMES = 3
FREEZE = 14.0
LATE = 3.0
LONG = 120.0
LEASED = ("a", "b")


class Site(ThreadingHTTPServer):
    """A backend that lives all the time."""

    request_queue_size = 128

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *arguments: object) -> None:
            pass

    def handle_error(self, *_: object) -> None:
        """HAProxy closes connections when it is stopped."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Load:
    """Requests to each port, one after the other, until the end; what came of them is counted."""

    def __init__(self, *ports: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for port in ports for _ in range(2)]

    def _ask(self, port: int) -> None:
        while not self._stop.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within(30))
            try:
                connection.request("GET", "/")
                outcome = str(connection.getresponse().status)
            except OSError as error:
                outcome = type(error).__name__
            finally:
                connection.close()
            self.outcomes[outcome] += 1
            if outcome != "200":
                self.failures.append(f"{time.strftime('%H:%M:%S')} port {port}: {outcome}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        print("requests:", dict(self.outcomes))


class World:
    """One etcd, two registered backends of the service `web`, an unleased one of `plain`, and a daemon with HAProxy."""

    def __init__(self, etcd: EmbeddedEtcd, start: Starter, directory: Path) -> None:
        self.etcd = etcd
        self.url = f"{etcd.url}/services"
        self.start = start
        self.directory = directory
        self.ports = free_port(), free_port()
        self.registrars: list[subprocess.Popen[bytes]] = []
        self.plain = f"127.0.0.1:{Site().server_port}"

    def run(self, *more: str) -> Daemon:
        web, plain = self.ports
        return self.start(
            *("--plugin", "haproxy", "--registry", self.url, *more),
            *("--set", f"haproxy.services.web.bind=127.0.0.1:{web}"),
            *("--set", f"haproxy.services.plain.bind=127.0.0.1:{plain}"),
            run_dir=self.directory / "run",
        )

    def register(self, stack: ExitStack) -> None:
        for id_ in LEASED:
            command = [*DISCOVERY, "register", "web", f"127.0.0.1:{Site().server_port}", "--id", id_]
            command += ["--registry", self.url, "--run-dir", str(self.directory / f"register-{id_}")]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            stack.callback(self.end, process)
            self.registrars.append(process)
        self.put_plain()

    def put_plain(self) -> None:
        eventually_sync(lambda: self.etcd.ctl("put", "/services/plain/p", self.plain), "the put", LONG)

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(within(30))

    def signal_registrars(self, number: signal.Signals) -> None:
        for process in self.registrars:
            os.kill(process.pid, number)

    def freeze(self) -> None:
        self.etcd.send_signal(signal.SIGSTOP)
        time.sleep(FREEZE)  # the fault is a length of time
        self.etcd.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        self.etcd.kill()
        self.etcd.wipe()
        self.etcd.start()

    def registered(self) -> set[str]:
        """What the registry has, read past the daemon."""
        lines = self.etcd.ctl("get", "/services/", "--prefix", "--keys-only").split()
        return {line.removeprefix("/services/") for line in lines}


def held(daemon: Daemon) -> dict[str, Any]:
    """What the daemon holds, by key, as /healthz shows it."""
    records: dict[str, Any] = daemon.get("/healthz")[1]["registry"]["held"]["records"]
    return records


def served(daemon: Daemon) -> set[str]:
    services = daemon.get("/api/snapshot")[1].get("services", {})
    return {f"{each['service']}/{each['id']}" for backends in services.values() for each in backends}


ALL = {"plain/p", *(f"web/{id_}" for id_ in LEASED)}
WEB = ALL - {"plain/p"}


@pytest.fixture
def world(every_etcd: EmbeddedEtcd, start_daemon: Starter, tmp_path: Path) -> Iterator[World]:
    require_program("haproxy")
    world = World(every_etcd, start_daemon, tmp_path)
    with ExitStack() as stack:
        world.register(stack)
        yield world


def ready(world: World) -> Daemon:
    daemon = world.run()
    eventually_sync(lambda: served(daemon) == ALL and daemon.is_ready(), "everything to be served", LONG)
    for port in world.ports:
        eventually_sync(lambda port=port: status(port) == 200, f"port {port}", LONG)
    return daemon


def status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within(10))
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def followed(daemon: Daemon) -> bool:
    return bool(daemon.get("/healthz")[1]["registry"]["connected"])


def test_a_freeze_of_fourteen_seconds_fails_no_request(world: World) -> None:
    """Point 3."""
    daemon = ready(world)
    with Load(*world.ports) as load:
        for _ in range(TIMES):
            world.freeze()
            eventually_sync(lambda: followed(daemon), "the registry to be followed", LONG)
            eventually_sync(lambda: world.registered() == ALL and not held(daemon), "the hold to end", LONG)
    assert load.failures == []
    # Whether a removal comes at all depends on who is faster as the server goes on: its lessor or the registrars.
    assert load.outcomes["200"] > 100


def test_the_loss_of_the_data_directory_fails_no_request(world: World, tmp_path: Path) -> None:
    """Point 3."""
    daemon = ready(world)
    with Load(*world.ports) as load:
        for _ in range(TIMES):
            world.wipe()
            eventually_sync(lambda: world.registered() == WEB, "the registrars to be back", LONG)
            eventually_sync(lambda: held(daemon).keys() == {"plain/p"}, "the unleased record to be held", LONG)
            assert served(daemon) == ALL
            assert held(daemon)["plain/p"] == {"cause": "reset", "ttl": None, "seconds_left": None}
            assert 'discovery_held_records{cause="reset"} 1.0' in daemon.get("/metrics")[1]
            # The last good snapshot on disk is not overwritten by the suspicious one.
            eventually_sync(lambda: remembered(tmp_path) == ALL, "the snapshot on disk", LONG)
            world.put_plain()
            eventually_sync(lambda: not held(daemon), "the hold to end", LONG)
    assert load.failures == []
    assert load.outcomes["200"] > 100


def remembered(directory: Path) -> set[str]:
    (path,) = (directory / "state").glob("snapshot-*.json")
    return {f"{each['service']}/{each['id']}" for each in json.loads(path.read_bytes())["backends"]}


def restart(world: World, daemon: Daemon, how: str) -> Daemon:
    """Another daemon in place of this one; HAProxy lives on."""
    if how == "kill":
        daemon.process.kill()
        daemon.process.wait()
        return world.run()
    successor = world.run("--replace")
    daemon.process.wait(within(LONG))
    return successor


@pytest.mark.parametrize("how", ["kill", "replace"])
def test_a_restart_during_the_hold_after_a_freeze_fails_no_request(world: World, how: str) -> None:
    """Point 3. The registrars, which hung as well, come back late, so that the restart is during the hold."""
    daemon = ready(world)
    with Load(*world.ports) as load:
        for _ in range(TIMES):
            world.signal_registrars(signal.SIGSTOP)
            world.freeze()
            eventually_sync(lambda d=daemon: held(d).keys() == WEB, "the hold", LONG)
            # They go on whatever happens here: on a busy machine a daemon may take longer to start than a hold lasts.
            back = threading.Timer(LATE, world.signal_registrars, (signal.SIGCONT,))
            back.start()
            daemon = restart(world, daemon, how)
            eventually_sync(lambda d=daemon: d.is_ready() and served(d) == ALL, "the next daemon", LONG)
            back.join()
            eventually_sync(lambda d=daemon: world.registered() == ALL and not held(d), "the hold to end", LONG)
    assert load.failures == []


@pytest.mark.parametrize("how", ["kill", "replace"])
def test_a_restart_during_the_hold_after_a_loss_fails_no_request(world: World, how: str, tmp_path: Path) -> None:
    """Point 3. The restart comes at once, when hardly anything is back."""
    daemon = ready(world)
    with Load(*world.ports) as load:
        for _ in range(TIMES):
            eventually_sync(lambda: remembered(tmp_path) == ALL, "the snapshot on disk", LONG)
            world.wipe()
            daemon = restart(world, daemon, how)
            eventually_sync(lambda d=daemon: d.is_ready() and held(d).keys() == {"plain/p"}, "the hold", LONG)
            assert served(daemon) == ALL
            world.put_plain()
            eventually_sync(lambda d=daemon: world.registered() == ALL and not held(d), "the hold to end", LONG)
    assert load.failures == []


def test_what_is_held_after_a_loss_ends_by_release_alone(world: World) -> None:
    """Point 3. `discovery release`, `services` and a removal on the healthy watch beside a hold."""
    daemon = ready(world)
    world.etcd.ctl("put", "/services/plain/q", world.plain)
    world.etcd.ctl("put", "/services/other/o", world.plain)
    eventually_sync(lambda: len(served(daemon)) == 5, "all records", LONG)
    world.wipe()
    eventually_sync(lambda: held(daemon).keys() == {"plain/p", "plain/q", "other/o"}, "the hold", LONG)
    # Commands show the registry as it is.
    listed = json.loads(command(world, "services", "--json", "--registry", world.url).stdout)
    assert set(listed["services"]) == {"web"}
    # A record that is put back and removed by an operator is gone at once.
    world.etcd.ctl("put", "/services/plain/q", world.plain)
    eventually_sync(lambda: "plain/q" not in held(daemon), "its return", LONG)
    world.etcd.ctl("del", "/services/plain/q")
    eventually_sync(lambda: "plain/q" not in served(daemon), "its removal", LONG)
    nothing = command(world, "release", "nosuch")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing of 'nosuch' is held" in nothing.stderr
    released = command(world, "release", "other", "--json")
    assert (released.returncode, json.loads(released.stdout)) == (0, {"released": ["other/o"]})
    assert held(daemon).keys() == {"plain/p"}
    assert command(world, "release").stdout == "plain/p\n"
    assert held(daemon) == {}
    eventually_sync(lambda: status(world.ports[1]) == 503, "the released backend to be out of service", LONG)
    assert status(world.ports[0]) == 200


def command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "discovery", *arguments],
        env={**os.environ, "DISCOVERY_RUN_DIR": str(world.directory / "run")},
        capture_output=True,
        text=True,
        timeout=within(LONG),
        check=False,
    )


def test_a_machine_that_died_in_the_freeze_is_given_up_after_its_ttl_and_a_margin(world: World) -> None:
    """Point 3."""
    daemon = ready(world)
    dead = world.registrars[0]
    dead.kill()
    dead.wait()
    world.freeze()
    eventually_sync(lambda: "web/a" in held(daemon), "the hold", LONG)
    begun = time.monotonic()
    eventually_sync(lambda: "web/a" not in served(daemon), "the end of the hold", LONG)
    assert 10 < time.monotonic() - begun < 60
    assert served(daemon) == ALL - {"web/a"}


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
@pytest.mark.parametrize("seconds", [9.0, 14.0])
async def test_a_cluster_that_stands_still_is_known_to_have_before_its_removals_are(
    etcd_program: Path, seconds: float
) -> None:
    """Point 3. A watch of several members turns to others, and finds them as they go on, stale or not yet."""
    with EtcdCluster(program=etcd_program) as cluster:
        registry = open_registry(f"{cluster.url}/services")
        events: list[RegistryEvent] = []

        async def follow() -> None:
            async with aclosing(registry.watch()) as watch:
                async for event in watch:
                    events.append(event)  # noqa: PERF401 - it never ends

        following = asyncio.create_task(follow())
        try:
            await eventually(lambda: events, "the first listing", timeout=LONG)
            lease = await registry.open_lease("host-1", 10)
            await lease.put(backend())
            await eventually(lambda: any(isinstance(each, Delta) and each.puts for each in events), "it", timeout=LONG)
            await asyncio.sleep(3)  # until the lease is about to be renewed
            for member in cluster.members:
                member.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)  # the fault is a length of time
            for member in cluster.members:
                member.send_signal(signal.SIGCONT)
            await eventually(lambda: not isinstance(events[-1], Stale) and len(events) > 2, "the end", timeout=LONG)
            at = next(number for number, each in enumerate(events) if isinstance(each, Stale))
            assert not any(isinstance(each, Delta) and each.deletes for each in events[:at])
            await lease.close()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await registry.close()
