"""What the container units of `deploy/` say of the images that they run, compared with the images' Dockerfile."""

import re
from pathlib import Path

import pytest
from tutorial.images import HAPROXY

DEPLOY = Path(__file__).parents[2] / "deploy"
QUADLETS = sorted((DEPLOY / "quadlets").glob("*.container"))
DOCKER = sorted((DEPLOY / "systemd-docker").glob("*.service"))
PORTS = "--sysctl net.ipv4.ip_unprivileged_port_start=0"


def user(image: str) -> str:
    """Return the user of an image, which is root if neither its stage nor one below names another."""
    dockerfile = (DEPLOY / "images/Dockerfile").read_text()
    stages = [stage.split(maxsplit=3) for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]]
    bases = {name: (base, body) for base, _, name, body in stages}
    while image in bases:
        image, body = bases[image]
        if named := re.search(r"^USER (\d+):", body, re.MULTILINE):
            return named[1]
    return "0"


def keys(path: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", path.read_text(), re.MULTILINE)


def image(path: Path) -> str:
    return keys(path, "Image")[0].removeprefix("localhost/")


def ports(path: Path) -> set[int]:
    """Return the ports of the container that are published, and the ambassador's, which is its last argument."""
    found = {int(port.rpartition(":")[2]) for port in keys(path, "PublishPort")}
    if image(path) == "dynamic-etcd-amb":
        found.add(int(keys(path, "Exec")[0].split()[-1]))
    return found


def test_a_quadlet_of_a_user_other_than_root_may_listen_on_its_low_ports() -> None:
    """Podman leaves ports below 1024 to root; Docker does not."""
    low = {path.stem for path in QUADLETS if user(image(path)) != "0" and min(ports(path), default=1024) < 1024}
    assert {"haproxy", "backend-amb"} <= low
    assert {path.stem for path in QUADLETS if PORTS in keys(path, "PodmanArgs")} == low


@pytest.mark.parametrize("path", [*QUADLETS, *DOCKER], ids=lambda path: path.name)
def test_a_container_of_another_program_has_no_health_check_of_a_daemon(path: Path) -> None:
    """`discovery health` fails for ever where HAProxy runs alone."""
    text = path.read_text()
    assert ("--entrypoint" in text) == ("--no-healthcheck" in text)


def test_the_tutorials_image_of_haproxy_has_no_health_check_of_a_daemon() -> None:
    assert "\nHEALTHCHECK NONE\n" in HAPROXY


@pytest.mark.parametrize("name", ["etcd-amb", "backend-amb"])
def test_an_ambassador_has_time_for_its_connections(name: str) -> None:
    """They may take 30 s (`--drain`); Docker and Podman wait 10 s if they are told nothing, and systemd 60 s."""
    quadlet, docker = DEPLOY / f"quadlets/{name}.container", DEPLOY / f"systemd-docker/{name}.service"
    assert "--stop-timeout 40" in keys(quadlet, "PodmanArgs")
    assert "docker stop --time 40 " in docker.read_text()
    assert keys(quadlet, "TimeoutStopSec") == keys(docker, "TimeoutStopSec") == ["60"]


@pytest.mark.parametrize("path", [*QUADLETS, *DOCKER], ids=lambda path: path.name)
def test_a_companion_is_started_with_its_main_unit(path: Path) -> None:
    """A stop of the main unit stops the companion (`PartOf=`), which a start of the main unit has to take back."""
    for main in " ".join(keys(path, "PartOf")).split():
        wanted = " ".join(keys(path.with_stem(Path(main).stem), "Wants")).split()
        assert f"{path.stem}.service" in wanted or main in " ".join(keys(path, "WantedBy")).split()
