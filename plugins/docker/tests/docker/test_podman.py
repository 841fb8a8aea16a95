"""Pods, health checks and sockets of a real Podman."""

import os
import signal
import socket
from pathlib import Path

import pytest
import structlog
from docker_fixtures import Provide
from docker_lab import DockerEngine, LinkedEngine
from engine_following import Seen, following
from histories import RegistryHistory
from podman_lab import PodmanEngine

from discovery.testing import eventually_sync
from discovery_docker.engine import Engine
from discovery_docker.patience import Patience
from discovery_docker.sockets import Found, find_engine


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
        assert 0 < seen.get("web-1").created_at <= seen.get("web-1").started_at
        podman_engine.podman("exec", "web-1", "/bin/busybox", "touch", "/ok")
        podman_engine.podman("healthcheck", "run", "web-1")
        eventually_sync(lambda: seen.get("web-1").health == "healthy")
        podman_engine.podman("exec", "web-1", "/bin/busybox", "rm", "/ok")
        with pytest.raises(AssertionError):
            podman_engine.podman("healthcheck", "run", "web-1")
        eventually_sync(lambda: seen.get("web-1").health == "unhealthy")


def link(socket: Path, engine: LinkedEngine) -> None:
    """Make `socket` the engine's."""
    socket.parent.mkdir(parents=True)
    socket.symlink_to(engine.socket)


def test_an_engine_is_found_by_its_socket_and_followed_on_beside_another(
    docker_engine: DockerEngine, podman_engine: PodmanEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman's containers outlive its service, and those of Docker do not take their place meanwhile."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run/user"))

    def find(url: str | None) -> Found:
        return find_engine(url, tmp_path, lambda: None)

    podman_engine.run("of-podman", "busybox")
    dies = podman_engine.run("dies", "busybox")
    pid = podman_engine.pid("dies")
    docker_engine.run("of-docker", "busybox")
    patience = Patience(reconnect=0.5)
    with Seen(Engine(None, structlog.get_logger(), reconcile=3600, patience=patience, find=find)) as seen:
        eventually_sync(lambda: any("this machine has no socket of Docker" in each for each in seen.errors))
        link(tmp_path / "run/podman/podman.sock", podman_engine)
        eventually_sync(lambda: seen.states and seen.names == ["dies", "of-podman"])
        link(tmp_path / "var/run/docker.sock", docker_engine)
        podman_engine.kill()
        os.kill(pid, signal.SIGKILL)
        gone = f"there is no Docker engine at unix://{tmp_path}/run/podman/podman.sock"
        eventually_sync(lambda: any(gone in each for each in seen.errors), timeout=20)
        assert seen.names == ["dies", "of-podman"]
        podman_engine.start()
        eventually_sync(lambda: seen.names == ["of-podman"], timeout=20)
        dies.start()
        eventually_sync(lambda: seen.names == ["dies", "of-podman"])
    with following(None, find=find) as seen:
        assert seen.names == ["of-docker"]


def test_until_docker_has_started_podman_does_not_take_its_place(
    docker_engine: DockerEngine, podman_engine: PodmanEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the records of Docker's containers would be withdrawn, and Docker not be followed."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run/user"))
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/dockerd").touch(0o755)
    link(tmp_path / "run/podman/podman.sock", podman_engine)
    podman_engine.run("of-podman", "busybox")
    docker_engine.run("of-docker", "busybox")
    with Seen(Engine(None, structlog.get_logger(), find=lambda url: find_engine(url, tmp_path, lambda: None))) as seen:
        eventually_sync(lambda: any('only by url = "podman"' in each for each in seen.errors))
        assert not seen.states
        link(tmp_path / "var/run/docker.sock", docker_engine)
        eventually_sync(lambda: seen.states and seen.names == ["of-docker"])
