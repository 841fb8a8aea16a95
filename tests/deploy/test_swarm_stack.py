"""`deploy/swarm`, started unchanged on two nodes: tasks come, go and leave a node, and no request fails.

The nodes are network namespaces with a dockerd each; their overlay networks are real (VXLAN).
"""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from docker_lab import Lan, Machine
from docker_lab.images import etcd_image

from discovery.testing import eventually_sync, require_program, within

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/swarm/stack.yaml"
TRAFFIC = ROOT / "deploy/tutorial/tutorial/traffic.py"
IMAGES = tuple(f"localhost/{name}" for name in ("docker-register", "haproxy", "apache", "etcd"))
"""A node asks the registry of an image that has no digest; one of `localhost` it does not wait for."""
NEXT = "localhost/apache:next"
PORT = 8080
RATE = 40
"""Requests in a second."""
REQUESTS = 1000

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


class Answer(NamedTuple):
    """A finished request: when it began and ended (CLOCK_MONOTONIC), the container that answered, and why it failed."""

    begun: float
    ended: float
    by: str
    failure: str


class Swarm:
    """The two nodes, of which the first is the manager, on a network of their own."""

    def __init__(self, lan: Lan, manager: Machine, worker: Machine) -> None:
        """Store them; they are nodes of one Swarm already."""
        self.lan, self.manager, self.worker = lan, manager, worker

    def docker(self, *arguments: str) -> str:
        """Run `docker` on the manager, and return its output."""
        return self.manager.docker(*arguments)

    def page(self, machine: Machine) -> bytes:
        """Ask the edge of a node. Raises OSError unless the answer is a page."""
        url = f"http://{machine.address}:{PORT}/"
        command = [*self.lan.enter, require_program("curl", wheel=False), "-sSf", "--max-time", str(within(10)), url]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode())
        return done.stdout

    def story(self) -> str:
        """Return the tasks of the stack, and what the registrars and edges have written."""
        logs = (self.docker("service", "logs", f"shop_{name}") for name in ("registrar", "edge"))
        return "\n".join((self.docker("stack", "ps", "--no-trunc", "shop"), *logs))

    def web(self) -> set[str]:
        """Return the ids of the service's running containers, as the containers know them."""
        filters = {"label": "com.docker.swarm.service.name=shop_web"}
        return {
            container["Id"][:12]
            for machine in (self.manager, self.worker)
            for container in machine.client.api.containers(filters=filters)
        }


class Traffic:
    """A load of requests to the edge of one node, by a program on the network of the nodes."""

    def __init__(self, swarm: Swarm, machine: Machine, output: Path) -> None:
        """Begin."""
        self._swarm, self._output = swarm, output
        output.touch()
        command = [*swarm.lan.enter, sys.executable, TRAFFIC, machine.address, str(PORT), str(RATE), output]
        self._process = subprocess.Popen(command)

    def answers(self) -> list[Answer]:
        """Return the finished requests."""
        lines = self._output.read_text().split("\n")[:-1]  # the last may not be whole yet
        return [Answer(*json.loads(line)) for line in lines]

    @property
    def failed(self) -> list[Answer]:
        """The requests that have failed."""
        return [each for each in self.answers() if each.failure]

    def is_served_by(self, count: int, gone: set[str]) -> set[str]:
        """Wait until so many containers run and answer, all of them and no other, and none of `gone`; return these."""

        def right() -> set[str]:
            running = self._swarm.web()
            newest = {each.by for each in self.answers()[-RATE:]}
            return running if len(running) == count and newest == running and not running & gone else set()

        found = eventually_sync(right, f"{count} containers to answer; failed: {self.failed}", timeout=90)
        assert isinstance(found, set)
        return found

    def stop(self) -> None:
        """Begin no more requests, and wait for those that have begun."""
        self._process.terminate()
        self._process.wait(within(120))


@pytest.fixture
def swarm(layout: Path, tmp_path: Path) -> Iterator[Swarm]:
    """Return two nodes with the images."""
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("10.77.0.1/24"))
        manager = stack.enter_context(Machine(lan, "manager", "10.77.0.11"))
        worker = stack.enter_context(Machine(lan, "worker", "10.77.0.12"))
        build = [sys.executable, ROOT / "deploy/images/build.py", "build", "--prefix", "localhost/", "--layout", layout]
        subprocess.run(build, env={**os.environ, "DOCKER_HOST": manager.url}, check=True)
        images = manager.client.images
        images.build(fileobj=io.BytesIO(etcd_image()), custom_context=True, tag="localhost/etcd", rm=True)
        images.get("localhost/apache").tag(NEXT)
        archive = tmp_path / "images.tar"
        manager.docker("save", "--output", str(archive), *IMAGES, NEXT)
        worker.docker("load", "--quiet", "--input", str(archive))
        archive.unlink()
        manager.docker("swarm", "init", "--advertise-addr", manager.address)
        token = manager.docker("swarm", "join-token", "--quiet", "worker").strip()
        worker.docker("swarm", "join", "--token", token, manager.address)
        yield Swarm(lan, manager, worker)


@pytest.fixture
def shop(swarm: Swarm, tmp_path: Path) -> Swarm:
    """Return the nodes with the stack, deployed as its page says, which serves at both nodes."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    for machine in (swarm.manager, swarm.worker):
        # The nodes share the files of this machine, and their sockets have different paths.
        (sockets / machine.client.info()["Swarm"]["NodeID"]).symlink_to(machine.socket)
    node = swarm.manager.client.info()["Swarm"]["NodeID"]
    swarm.docker("node", "update", "--label-add", "discovery.etcd=true", node)
    command = [
        *(require_program("docker", wheel=False), "--host", swarm.manager.url),
        *("stack", "deploy", "--resolve-image", "never", "--compose-file", FILE, "shop"),
    ]
    variables = {"ETCD_IMAGE": "localhost/etcd", "DOCKER_SOCKET": f"{sockets}/{{{{.Node.ID}}}}"}
    subprocess.run(command, env={**os.environ, **variables}, check=True, timeout=within(60))
    try:
        for machine in (swarm.manager, swarm.worker):
            eventually_sync(lambda at=machine: swarm.page(at) == b"hello from apache\n", "a page", timeout=120)
    except (AssertionError, OSError):
        print(swarm.story())  # shown with the failure
        raise
    return swarm


def test_no_request_fails_while_tasks_come_go_are_replaced_and_leave_a_node(shop: Swarm, tmp_path: Path) -> None:
    traffic = Traffic(shop, shop.manager, tmp_path / "answers")
    try:
        before = traffic.is_served_by(2, gone=set())
        for count in (1, 5, 2):
            shop.docker("service", "scale", "--detach", f"shop_web={count}")
            before = traffic.is_served_by(count, gone=set())

        shop.docker("service", "update", "--detach", "--image", NEXT, "shop_web")
        traffic.is_served_by(2, gone=before)

        node = shop.worker.client.info()["Swarm"]["NodeID"]
        shop.docker("node", "update", "--availability", "drain", node)
        eventually_sync(lambda: shop.worker.client.containers.list() == [], "the node to be empty", timeout=60)
        traffic.is_served_by(2, gone=set())
        eventually_sync(lambda: len(traffic.answers()) >= REQUESTS, "the requests", timeout=60)
    finally:
        traffic.stop()
    answers = traffic.answers()
    longest = max(each.ended - each.begun for each in answers)
    print(f"{len(answers)} requests, {len(traffic.failed)} failed, the slowest took {longest:.1f} s")
    assert traffic.failed == []


def test_the_tasks_have_no_more_rights_than_they_need() -> None:
    stack = yaml.safe_load(FILE.read_text())
    services = stack["services"]
    assert set(services) == {"etcd", "registrar", "edge", "web"}
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service.get("cap_add", []) == (["SETUID", "SETGID"] if name == "registrar" else [])
        assert ("DOCKER_SOCKET" in str(service["volumes"])) == (name == "registrar")
        assert [each["mode"] for each in service.get("ports", [])] == (["host"] if name == "edge" else [])
        # Virtual addresses need IPVS, which not every kernel has.
        assert service["deploy"]["endpoint_mode"] == "dnsrr"
    assert (services["etcd"]["networks"], services["web"]["networks"]) == (["registry"], ["web"])
    assert stack["networks"]["registry"]["internal"]


def test_the_page_tells_each_variable_of_the_file_and_its_default() -> None:
    page = (FILE.parent / "README.md").read_text()
    for name, default in set(re.findall(r"\$\{(\w+):-(.*?)\}", FILE.read_text())):
        (row,) = re.findall(rf"^\|.*`{name}`.*\|$", page, re.MULTILINE)
        assert name == "ETCD_IMAGE" or f"`{default}`" in row
