"""Following a real Docker engine: what runs, what is being stopped, and every way of losing sight of it."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import docker
import pytest
import structlog
from docker_lab import DockerEngine

from discovery.testing import eventually_sync, within
from discovery_apache.container import Container
from discovery_apache.engine import Engine, EngineError, View


class Seen:
    """Every view of an engine so far, and what was raised; followed on a thread, as the core would."""

    def __init__(self, engine: Engine) -> None:
        self.views: list[View] = []
        self.errors: list[str] = []
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    @property
    def latest(self) -> View:
        return self.views[-1]

    def get(self, name: str) -> Container:
        """A container of the latest view. Raises LookupError if there is none."""
        return {container.name: container for container in self.latest.containers}[name]

    @property
    def names(self) -> list[str]:
        return [container.name for container in self.latest.containers]

    @property
    def stopping(self) -> list[str]:
        return [container.name for container in self.latest.containers if container.id in self.latest.stopping]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=within(10))
        assert not self._thread.is_alive()
        assert all(one != other for one, other in zip(self.views, self.views[1:], strict=False))

    def _run(self) -> None:
        self._task = self._loop.create_task(self._follow())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._engine.follow()) as views:
                    anew = bool(self.views)  # the first of another attempt may be equal
                    async for view in views:
                        if not (anew and view == self.latest):
                            self.views.append(view)
                        anew = False
            except EngineError as error:
                self.errors.append(str(error))
                await asyncio.sleep(0.05)


@contextmanager
def following(url: str, **options: Any) -> Iterator[Seen]:
    """Follow the engine at `url`; entered once its first view is there."""
    with Seen(Engine(url, structlog.get_logger(), **options)) as seen:
        eventually_sync(lambda: seen.views, "the first view", timeout=30)
        yield seen


class Relay:
    """A socket at `url` from which an engine is reached for as long as it is `open`; and silently, if `mute`.

    Mute, it carries no event, as the engine itself does when its buffer of them is full. What contains `lost` does not
    reach the engine, as when that is too busy to answer; `losses` counts these.
    """

    def __init__(self, engine: DockerEngine) -> None:
        self.path = engine.directory / "relay.sock"
        self.url = f"unix://{self.path}"
        self.mute = False
        self.lost = b""
        self.losses = 0
        self._engine = engine
        self._listener = socket.socket()
        self._ends: list[socket.socket] = []

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.socket(socket.AF_UNIX)
                there.connect(str(self._engine.socket))
                self._ends += [here, there]
                events = threading.Event()
                for one, other, back in ((here, there, False), (there, here, True)):
                    threading.Thread(target=self._carry, args=(one, other, back, events), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, back: bool, events: threading.Event) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not back and b"/events?" in data:
                    events.set()
                if not back and self.lost and self.lost in data:
                    self.losses += 1
                elif not (back and events.is_set() and self.mute):
                    other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


def running(engine: DockerEngine) -> list[str]:
    return sorted(entry["Names"][0].removeprefix("/") for entry in engine.client.api.containers())


def test_a_container_comes_is_stopped_and_goes(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        assert seen.views == [View()]
        container = docker_engine.run("web-1")
        eventually_sync(lambda: seen.names == ["web-1"], "it to be seen")
        (binding,) = seen.get("web-1").ports[80, "tcp"]
        assert binding == (docker_engine.address, docker_engine.port("web-1"))
        assert seen.get("web-1").id == container.id
        assert seen.stopping == []
        container.stop()
        eventually_sync(lambda: seen.names == [], "it to be gone")
    assert [(len(view.containers), len(view.stopping)) for view in seen.views] == [(0, 0), (1, 0), (1, 1), (0, 0)]


def test_what_runs_already_is_in_the_first_view_by_name(docker_engine: DockerEngine) -> None:
    for name in ("web-2", "web-1"):
        docker_engine.run(name, "busybox")
    docker_engine.client.containers.create("busybox", name="never-started")
    with following(docker_engine.url) as seen:
        assert [container.name for container in seen.views[0].containers] == ["web-1", "web-2"]


def test_only_what_matches_is_seen_also_under_another_name(docker_engine: DockerEngine) -> None:
    def is_web(container: Container) -> bool:
        return container.name.startswith("web")

    with following(docker_engine.url, match=is_web) as seen:
        other = docker_engine.run("other", "busybox")
        web = docker_engine.run("web-1", "busybox")
        eventually_sync(lambda: seen.names == ["web-1"])
        other.rename("web-0")
        eventually_sync(lambda: seen.names == ["web-0", "web-1"])
        web.rename("not-web")
        eventually_sync(lambda: seen.names == ["web-0"])


def test_signals_that_do_not_stop_do_not_count(docker_engine: DockerEngine) -> None:
    """Apache's stop signal is WINCH; it reloads at HUP and USR1."""
    with following(docker_engine.url) as seen:
        container = docker_engine.run("web-1")
        eventually_sync(lambda: seen.names == ["web-1"])
        for name in ("SIGUSR1", "SIGHUP"):
            container.kill(name)
        container.rename("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        assert not any(view.stopping for view in seen.views)
        container.kill("SIGWINCH")
        eventually_sync(lambda: seen.names == [])
        assert any(view.stopping for view in seen.views)


def test_one_that_survives_its_signal_is_not_being_stopped(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_STOP_TIMEOUT", "_STOP_GRACE"):
        monkeypatch.setattr(f"discovery_apache.engine.{name}", 0.5)
    container = docker_engine.run("web-1", "busybox", stop_signal="SIGTERM")  # which PID 1 ignores
    with following(docker_engine.url) as seen:
        container.kill("SIGTERM")
        eventually_sync(lambda: seen.stopping == ["web-1"])
        eventually_sync(lambda: seen.stopping == [])
        assert seen.names == ["web-1"]


def test_a_stop_that_began_before_us_is_known(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox", stop_signal="SIGTERM")  # which PID 1 ignores
    with ThreadPoolExecutor() as pool:
        client = docker_engine.new_client()
        stopped = pool.submit(client.api.stop, container.id, timeout=60)
        with following(docker_engine.url) as before:
            eventually_sync(lambda: before.stopping == ["web-1"])
        began = time.monotonic()
        eventually_sync(lambda: time.monotonic() > began + 2, "the engine's clock, of whole seconds, to go on")
        with following(docker_engine.url) as seen:
            eventually_sync(lambda: seen.stopping == ["web-1"])
            container.kill("SIGKILL")
            stopped.result()
            eventually_sync(lambda: seen.names == [])


def test_one_stopped_and_started_again_is_not_being_stopped(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox")
    for _ in range(3):
        container.restart()
    with following(docker_engine.url) as seen:
        container.rename("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        assert not any(view.stopping for view in seen.views)
        container.restart()
        ports = {(80, "tcp"): ((docker_engine.address, docker_engine.port("web-2")),)}
        eventually_sync(lambda: seen.get("web-2").ports == ports and not seen.stopping, "the port that it has now")


def test_a_container_that_is_killed_or_ends_by_itself_is_gone(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        killed = docker_engine.run("killed", "busybox")
        shot = docker_engine.run("shot", "busybox")
        docker_engine.run("ends", "busybox", command=["/bin/busybox", "sleep", "0.5"])
        removed = docker_engine.run("removed", "busybox")
        eventually_sync(lambda: {"killed", "removed", "shot"} <= set(seen.names))
        killed.kill()
        removed.remove(force=True)
        shot.reload()
        os.kill(shot.attrs["State"]["Pid"], signal.SIGKILL)
        eventually_sync(lambda: seen.names == [])
        assert any("ends" in [container.name for container in view.containers] for view in seen.views)


def test_one_that_is_restarted_forever_is_seen_only_while_it_runs(docker_engine: DockerEngine) -> None:
    with following(docker_engine.url) as seen:
        policy = {"Name": "always"}
        docker_engine.run("web-1", "busybox", command=["/bin/busybox", "false"], restart_policy=policy)
        again = docker_engine.run("web-2", "busybox", restart_policy=policy)
        eventually_sync(lambda: seen.names == ["web-2"] and seen.get("web-2").ports)
        port = docker_engine.port("web-2")
        again.reload()
        os.kill(again.attrs["State"]["Pid"], signal.SIGKILL)
        eventually_sync(lambda: docker_engine.port("web-2") != port, "Docker to start it again")
        port = docker_engine.port("web-2")
        eventually_sync(lambda: seen.get("web-2").ports[80, "tcp"][0].host_port == port)


def test_a_paused_container_says_so(docker_engine: DockerEngine) -> None:
    container = docker_engine.run("web-1", "busybox")
    with following(docker_engine.url) as seen:
        container.pause()
        eventually_sync(lambda: seen.get("web-1").paused)
        container.unpause()
        eventually_sync(lambda: not seen.get("web-1").paused)


def test_health_as_docker_checks_it(docker_engine: DockerEngine) -> None:
    check = {"test": ["CMD", "/bin/busybox", "test", "-e", "/ok"], "interval": 10**9, "retries": 1}
    with following(docker_engine.url) as seen:
        container = docker_engine.run("web-1", "busybox", healthcheck=check)
        eventually_sync(lambda: seen.get("web-1").health == "unhealthy", timeout=20)
        container.exec_run(["/bin/busybox", "touch", "/ok"])
        eventually_sync(lambda: seen.get("web-1").health == "healthy", timeout=20)
        assert "starting" in [container.health for view in seen.views for container in view.containers]


def test_networks_that_are_joined_and_left(docker_engine: DockerEngine) -> None:
    docker_engine.network("inside")
    container = docker_engine.run("web-1", "busybox")
    api = docker_engine.client.api
    with following(docker_engine.url) as seen:
        api.connect_container_to_network(container.id, "inside")
        eventually_sync(lambda: set(seen.get("web-1").networks) == {"bridge", "inside"})
        assert seen.get("web-1").networks["inside"].ipv4
        api.disconnect_container_from_network(container.id, "bridge")
        eventually_sync(lambda: set(seen.get("web-1").networks) == {"inside"})
        api.disconnect_container_from_network(container.id, "inside")
        eventually_sync(lambda: seen.get("web-1").networks == {} and seen.get("web-1").ports == {})
        api.connect_container_to_network(container.id, "bridge")
        eventually_sync(lambda: seen.get("web-1").ports, "the port published again")
        assert seen.get("web-1").ports[80, "tcp"][0].host_port == docker_engine.port("web-1")


def test_an_engine_that_is_killed_and_started_again(docker_engine: DockerEngine) -> None:
    """Nothing is said to be gone while nobody can know; an engine that is soon back is no error."""
    for name in ("web-1", "web-2"):
        docker_engine.run(name, "busybox")
    with following(docker_engine.url) as seen:
        docker_engine.kill()
        assert seen.names == ["web-1", "web-2"]
        docker_engine.start()
        eventually_sync(lambda: seen.names == [], "what ended with the engine to be gone")
        docker_engine.client.api.start("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        port = docker_engine.port("web-2")
        assert seen.get("web-2").ports[80, "tcp"][0].host_port == port


def test_an_engine_that_stays_away_is_an_error_and_what_was_seen_stands(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery_apache.engine._REJOIN", 0.5)
    docker_engine.run("web-1", "busybox")
    with Relay(docker_engine) as relay, following(relay.url) as seen:
        relay.close()
        eventually_sync(lambda: seen.errors, "an error")
        assert seen.errors == [f"there is no Docker engine at {relay.url}: start it, or name another"]
        assert seen.names == ["web-1"]
        relay.open()
        docker_engine.run("web-2", "busybox")
        eventually_sync(lambda: seen.names == ["web-1", "web-2"])
        assert len(seen.errors) == 1  # told once, though it was tried all the time


def test_whatever_happened_while_it_was_away_is_found(docker_engine: DockerEngine) -> None:
    """Also when more happened than the engine remembers events of, which are 256."""
    docker_engine.run("stays", "busybox")
    docker_engine.run("goes", "busybox")
    moves = docker_engine.run("moves", "busybox")
    with Relay(docker_engine) as relay, following(relay.url) as seen:
        relay.close()
        docker_engine.client.api.remove_container("goes", force=True)
        docker_engine.run("comes", "busybox")
        moves.restart()
        for number in range(300):
            moves.rename(f"moves-{number}")
        relay.open()
        eventually_sync(lambda: seen.names == ["comes", "moves-299", "stays"], timeout=30)
        port = docker_engine.port("moves-299")
        assert seen.get("moves-299").ports[80, "tcp"][0].host_port == port
        assert not seen.stopping


def test_what_no_event_told_is_found_by_looking_again(docker_engine: DockerEngine) -> None:
    docker_engine.run("goes", "busybox")
    with Relay(docker_engine) as relay, following(relay.url, reconcile=0.5) as seen:
        relay.mute = True
        docker_engine.client.api.remove_container("goes", force=True)
        docker_engine.run("comes", "busybox")
        eventually_sync(lambda: seen.names == ["comes"])


def test_with_live_restore_what_died_meanwhile_is_gone_and_the_rest_never_was(
    live_restore_engine: DockerEngine,
) -> None:
    dies = live_restore_engine.run("dies", "busybox")
    live_restore_engine.run("lives", "busybox")
    dies.reload()
    with following(live_restore_engine.url) as seen:
        live_restore_engine.kill()
        os.kill(dies.attrs["State"]["Pid"], signal.SIGKILL)
        live_restore_engine.start()
        eventually_sync(lambda: seen.names == ["lives"])
        assert all("lives" in [each.name for each in view.containers] for view in seen.views)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that hangs is noticed within a second or two."""
    for name in ("_QUIET", "_PING_TIMEOUT", "_CONNECT_TIMEOUT", "_REJOIN"):
        monkeypatch.setattr(f"discovery_apache.engine.{name}", 0.5)


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_hangs_is_noticed_and_followed_on(docker_engine: DockerEngine) -> None:
    docker_engine.run("web-1", "busybox")
    with following(docker_engine.url) as seen:
        docker_engine.suspend()
        eventually_sync(lambda: seen.errors)
        assert seen.errors == [f"the Docker engine at {docker_engine.url} is not responding"]
        assert seen.names == ["web-1"]
        docker_engine.resume()
        docker_engine.run("web-2", "busybox")
        eventually_sync(lambda: seen.names == ["web-1", "web-2"])


def test_what_could_not_be_inspected_is_inspected_again(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery_apache.dockerapi.CALL_TIMEOUT", 0.5)
    docker_engine.run("stays", "busybox")
    created = docker_engine.client.containers.create("busybox", name="comes")
    with Relay(docker_engine) as relay, following(relay.url, reconcile=300) as seen:
        relay.lost = f"/containers/{created.id}/json".encode()
        created.start()
        eventually_sync(lambda: relay.losses > 3)  # more than there are events
        assert seen.names == ["stays"]
        relay.lost = b""
        eventually_sync(lambda: seen.names == ["comes", "stays"])
        assert not seen.errors


def test_an_engine_that_hangs_does_not_keep_the_process(docker_engine: DockerEngine, tmp_path: Path) -> None:
    """Neither while it is followed, nor at the end, where executors wait for their threads."""
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys, structlog\n"
        "from discovery_apache.engine import Engine\n"
        "async def main():\n"
        "    views = Engine(sys.argv[1], structlog.get_logger()).follow()\n"
        "    await anext(views)\n"
        "    print('seen', flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.readline)\n"
        "    waiting = asyncio.ensure_future(anext(views))\n"
        "    await asyncio.sleep(0.2)\n"
        "    waiting.cancel()\n"
        "    await asyncio.wait([waiting])\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, program, docker_engine.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "seen\n"
        docker_engine.suspend()
        process.communicate("go\n", timeout=within(20))
        assert process.returncode == 0


def test_at_rest_it_is_right_whatever_happened_before(docker_engine: DockerEngine) -> None:
    """Containers started, killed and paused at random, and the engine killed in the middle of it."""
    names = [f"web-{number}" for number in range(12)]
    for name in names:
        docker_engine.client.containers.create("busybox", name=name, ports={"80/tcp": None})

    clients = [docker_engine.new_client().api for _ in range(6)]

    def disturb(number: int) -> None:
        client, chance = clients[number], random.Random(number)
        acts: list[Callable[[str], object]] = [
            *(client.start, client.start, client.kill, client.restart, client.pause, client.unpause),
        ]
        for _ in range(25):
            with suppress(docker.errors.APIError, OSError):
                chance.choice(acts)(chance.choice(names))

    with following(docker_engine.url) as seen:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(disturb, range(3)):
                pass
            disturbing = [pool.submit(disturb, number) for number in range(3, 6)]
            docker_engine.kill()
            docker_engine.start()
            for each in disturbing:
                each.result()
        eventually_sync(lambda: seen.names == running(docker_engine) and not seen.stopping, timeout=20)
        for container in seen.latest.containers:
            assert container.ports[80, "tcp"][0].host_port == docker_engine.port(container.name)
            assert container.paused == (docker_engine.client.containers.get(container.name).status == "paused")
