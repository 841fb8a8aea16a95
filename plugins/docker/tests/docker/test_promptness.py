"""Changes of containers, told by an event of Docker or Podman: right in the registry within 1 s (Podman 2 s).

A test waits for ten times as long.
"""

import os
import signal
import time
from collections.abc import Callable

from docker_fixtures import Provide
from docker_lab import LinkedEngine
from engine_following import following
from histories import RegistryHistory
from podman_lab import PodmanEngine

from discovery.testing import eventually_sync
from discovery_docker.container import Container, parse

CHANGES: tuple[tuple[str, Callable[[LinkedEngine], object]], ...] = (
    ("run", lambda engine: engine.run("web-1", "busybox")),
    ("kill -9 of the process", lambda engine: os.kill(engine.pid("web-1"), signal.SIGKILL)),
    ("start", lambda engine: engine.client.api.start("web-1")),
    ("pause", lambda engine: engine.client.api.pause("web-1")),
    ("unpause", lambda engine: engine.client.api.unpause("web-1")),
    ("restart", lambda engine: engine.restart("web-1")),
    ("rename", lambda engine: engine.client.api.rename("web-1", "web-2")),
    ("network connect", lambda engine: engine.client.api.connect_container_to_network("other", "inside")),
    ("network disconnect", lambda engine: engine.client.api.disconnect_container_from_network("other", "inside")),
    ("kill", lambda engine: engine.client.api.kill("web-2")),
    ("start after kill", lambda engine: engine.client.api.start("web-2")),
    ("stop", lambda engine: engine.client.api.stop("web-2")),
    ("start after stop", lambda engine: engine.client.api.start("web-2")),
    ("rm -f", lambda engine: engine.client.api.remove_container("web-2", force=True)),
)
"""Each begins where the one before has ended. The container `other` publishes no port."""


def serving(engine: LinkedEngine) -> dict[str, Container]:
    """Return the containers that run and are not paused, as the engine answers now, by name."""
    listed = [parse(engine.client.api.inspect_container(each["Id"])) for each in engine.client.api.containers()]
    return {each.name: each for each in listed if each.running and not each.paused}


def places(engine: LinkedEngine) -> dict[str, str]:
    """Return the addresses to announce, as the engine answers now: of a published port, or on the network."""
    found = {}
    for name, container in serving(engine).items():
        if container.ports:
            found[name] = f"{engine.address}:{container.ports[80, 'tcp'][0].host_port}"
        elif "inside" in container.networks:
            found[name] = f"{container.networks['inside'].ipv4}:80"
    return found


def test_the_registry_is_right_soon(any_engine: LinkedEngine, registry: RegistryHistory, provide: Provide) -> None:
    """And an event tells each change, as an engine shows that is listed once alone."""
    any_engine.network("inside")
    any_engine.run("first", "busybox")
    any_engine.run("other", "busybox", publish=None)
    bar = 2 if isinstance(any_engine, PodmanEngine) else 1
    provide(networks=["inside"])
    registry.lists("first")
    with following(any_engine.url, reconcile=3600) as seen:
        for change, act in CHANGES:
            before = places(any_engine)
            act(any_engine)
            began = time.monotonic()

            def is_right(before: dict[str, str] = before, keeps: bool = change == "restart") -> bool:
                now = places(any_engine)
                return registry.places == now and (keeps or now != before)  # Podman keeps the port at a restart

            eventually_sync(is_right, change, timeout=10 * bar)
            print(f"{change}: {time.monotonic() - began:.2f} s")
            eventually_sync(
                lambda: {each.name: each for each in seen.latest.containers if not each.paused} == serving(any_engine),
                f"the event of {change}",
            )
