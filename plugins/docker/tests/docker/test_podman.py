"""Pods, health checks and sockets of a real Podman."""

import socket
from pathlib import Path

import pytest
from docker_fixtures import Provide
from engine_following import following
from histories import RegistryHistory
from podman_lab import PodmanEngine

from discovery.testing import eventually_sync
from discovery_docker.sockets import find_engine


def test_a_container_in_a_pod_has_the_port_that_the_pod_publishes(
    podman_engine: PodmanEngine, registry: RegistryHistory, provide: Provide
) -> None:
    daemon = provide()
    # Without a control group of the pod's: a machine may have directories of controllers that it has not mounted.
    create = ("pod", "create", "--name", "shop", "--share-parent=false")
    podman_engine.podman(*create, "--publish", f"{podman_engine.address}::80")
    run = ("run", "--detach", "--pod", "shop")
    podman_engine.podman(*run, "--name", "side", "busybox", "/bin/busybox", "sleep", "600")
    podman_engine.podman(*run, "--name", "web", "--label", "SERVICE_80_NAME=web", "busybox")
    key = f"web/{socket.gethostname()}:web:80"
    place = f"{podman_engine.address}:{podman_engine.port('web')}"
    eventually_sync(lambda: registry.places == {"web": place} and key in registry.records, timeout=20)
    _, told = daemon.get("/api/providers")
    assert "holds the network of a pod" in str(told)
    podman_engine.podman("pod", "rm", "--force", "--time=0", "shop")
    registry.lists()


def test_health_as_podman_checks_it(podman_engine: PodmanEngine) -> None:
    """On a machine without systemd, which would run the check, by hand."""
    check = ("--health-cmd", '["/bin/busybox","test","-e","/ok"]', "--health-retries", "1")
    with following(podman_engine.url, reconcile=3600) as seen:
        podman_engine.podman("run", "--detach", "--name", "web-1", *check, "busybox")
        eventually_sync(lambda: seen.get("web-1").health == "starting")
        podman_engine.podman("exec", "web-1", "/bin/busybox", "touch", "/ok")
        podman_engine.podman("healthcheck", "run", "web-1")
        eventually_sync(lambda: seen.get("web-1").health == "healthy")
        podman_engine.podman("exec", "web-1", "/bin/busybox", "rm", "/ok")
        with pytest.raises(AssertionError):
            podman_engine.podman("healthcheck", "run", "web-1")
        eventually_sync(lambda: seen.get("web-1").health == "unhealthy")


def test_podman_is_found_by_its_socket(
    podman_engine: PodmanEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    place = tmp_path / "run/podman"
    place.mkdir(parents=True)
    (place / "podman.sock").symlink_to(podman_engine.socket)
    podman_engine.run("web-1", "busybox")
    with following(find_engine(None, tmp_path).url) as seen:
        assert seen.names == ["web-1"]
