"""Two hundred containers that start and stop at random, and a dockerd that is killed meanwhile."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import docker
import pytest
import requests
from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory

from discovery.testing import eventually_sync, within

CONTAINERS = 200
SECONDS = 120  # without those that dockerd takes to start
ACTORS = 3  # as many as two processors carry beside dockerd and the provider
NAMES = [f"web-{number}" for number in range(CONTAINERS)]
AWAY = (requests.RequestException, docker.errors.APIError)


@dataclass
class Churn:
    """Starts and stops containers until the end, and counts the possible starts."""

    engine: DockerEngine
    chance: random.Random
    starts: int = 0
    failures: list[str] = field(default_factory=list)
    free: set[str] = field(default_factory=lambda: set(NAMES))
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def create(self) -> None:
        """Create the containers without starting any."""
        with ThreadPoolExecutor(ACTORS) as pool:
            for made in [pool.submit(self._create, NAMES[at::ACTORS]) for at in range(ACTORS)]:
                made.result()

    def _create(self, names: list[str]) -> None:
        client = self.engine.new_client()
        for name in names:
            client.containers.create("busybox", name=name, ports={"80/tcp": (self.engine.address, None)})

    def act(self) -> None:
        client = self.engine.new_client()
        while not self.ended.is_set():
            name = self._take()
            try:
                self._toggle(client.containers.get(name))
            except AWAY as error:
                self.failures.append(f"{name}: {error}")
                self.ended.wait(0.1)
            finally:
                with self.lock:
                    self.free.add(name)

    def _toggle(self, container: docker.models.containers.Container) -> None:
        if container.status == "running":
            container.stop(timeout=1)
            return
        try:
            container.start()
        except docker.errors.APIError:
            raise  # it says that it has not
        except requests.RequestException:
            self._count()  # dockerd was killed, and may have
            raise
        self._count()

    def _count(self) -> None:
        with self.lock:
            self.starts += 1

    def _take(self) -> str:
        with self.lock:
            name = self.chance.choice(sorted(self.free))
            self.free.remove(name)
            return name

    @contextmanager
    def going_on(self) -> Iterator[None]:
        actors = [threading.Thread(target=self.act) for _ in range(ACTORS)]
        for actor in actors:
            actor.start()
        try:
            yield
        finally:
            self.ended.set()
            for actor in actors:
                actor.join()


@pytest.fixture
def own_engine(docker_engine: DockerEngine) -> Iterator[DockerEngine]:
    """An engine for this test alone: to remove it is quicker than to empty it."""
    with DockerEngine() as engine:
        yield engine


def serving(engine: DockerEngine) -> dict[str, str]:
    """Every container that runs and answers, and where it is published: a dockerd that was killed may forget a port."""
    found = {}
    for listed in engine.client.api.containers():
        container = engine.client.api.inspect_container(listed["Id"])
        if container["State"]["Running"]:
            port = int(container["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
            with suppress(OSError), socket.create_connection((engine.address, port), timeout=within(5)):
                found[container["Name"].removeprefix("/")] = f"{engine.address}:{port}"
    return found


def _said(log: str, names: set[str]) -> list[str]:
    """Return the latest lines of a daemon's log about the containers."""
    return [line for line in log.splitlines() if any(f":{name}:" in line for name in names)][-20:]


@pytest.mark.timeout(360)
def test_the_registry_equals_the_running_containers(
    own_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    seed = int(os.environ.get("CHURN_SEED", random.SystemRandom().randrange(2**32)))
    print("CHURN_SEED:", seed)
    churn = Churn(own_engine, random.Random(seed))
    churn.create()
    daemon = provide(engine=own_engine, docker__names=["web-*"])
    revision = registry.revision()
    with churn.going_on():
        # Containers outlive the first kill, and end with the second.
        for live_restore in (True, False):
            time.sleep(SECONDS / 3)  # the length of the churn is the case
            pids = []
            for name in serving(own_engine):
                with suppress(LookupError):  # it was stopped since
                    pids.append(own_engine.pid(name))
            own_engine.kill()
            for pid in churn.chance.sample(pids, min(3, len(pids))):
                with suppress(ProcessLookupError):  # it was stopped since
                    os.kill(pid, signal.SIGKILL)
            own_engine.live_restore = live_restore
            own_engine.start()
        time.sleep(SECONDS / 3)  # the length of the churn is the case
    expected: dict[str, str] = {}

    def are_equal() -> bool:
        nonlocal expected
        expected, registered = serving(own_engine), registry.now()
        wrong = {name for name, _ in expected.items() ^ registered.items()}
        told = {name: f"serves at {expected.get(name)}, registered {registered.get(name)}" for name in sorted(wrong)}
        assert not wrong, f"{told}; of these the daemon said: {_said(daemon.log, wrong)}"
        return True

    eventually_sync(are_equal, "the registry to equal what runs", timeout=45)  # everything is looked at every 30 s
    growth = registry.revision() - revision
    print(f"{churn.starts} starts, {len(expected)} serve, {growth} revisions, {churn.failures[:5]}")
    assert churn.starts > CONTAINERS / 2
    assert len(expected) > CONTAINERS / 10
    # A run is a put and a delete at the most; nothing was registered again, since no lease was lost.
    assert growth <= 2 * churn.starts - len(expected)
    assert daemon.process.poll() is None
    assert daemon.get("/healthz")[0] == 200
