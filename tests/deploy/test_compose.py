"""`deploy/compose`, started unchanged: containers come, go and are replaced, and every request is served."""

import io
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from docker.models.containers import Container
from docker_lab import DockerEngine
from docker_lab.images import etcd_image
from requesting import Load, Requests

from discovery.testing import eventually_sync, require_program, within

FILE = Path(__file__).parents[2] / "deploy/compose/compose.yaml"
PORT = 8080
PAGE, NEXT_PAGE = "hello from apache\n", "the next version\n"
REQUESTS = 1000
SLOW = """\
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello ")
        time.sleep(0.5)
        self.wfile.write(b"from apache\\n")

ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""
"""A program that takes its time for an answer, and that a stop signal ends in the midst of it."""

pytestmark = pytest.mark.timeout(600)  # the first test of a process waits for the images


class Project:
    """The project of the file, on an engine of the tests, whose address it is told to listen on."""

    def __init__(self, engine: DockerEngine) -> None:
        """Store the engine; start nothing."""
        self.engine = engine
        self.address = (engine.address, PORT)
        self._command = [require_program("docker-compose", wheel=False), "--file", FILE, "--project-name", "shop"]
        self._environment = {
            **os.environ,
            "DOCKER_HOST": engine.url,
            "DOCKER_SOCKET": str(engine.socket),
            "ETCD_IMAGE": "etcd",
            "IMAGES": "polvi/",
            "LISTEN": f"{engine.address}:{PORT}",
        }

    def compose(self, *arguments: str, files: Sequence[Path] = ()) -> None:
        """Run docker-compose, with more files if there are some. Raises AssertionError with what it says."""
        more = [argument for file in files for argument in ("--file", file)]
        done = subprocess.run(
            [*self._command, *more, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=within(90),
        )
        assert done.returncode == 0, done.stderr

    def containers(self, service: str | None = None) -> list[Container]:
        """Return the running containers of a service, or of all of them."""
        label = "com.docker.compose." + (f"service={service}" if service else "project=shop")
        return list(self.engine.client.containers.list(filters={"label": label}))


@pytest.fixture
def project(images: DockerEngine) -> Iterator[Project]:
    """Return the project, started by `docker-compose up`."""
    images.client.images.build(fileobj=io.BytesIO(etcd_image()), custom_context=True, tag="etcd", rm=True)
    images.client.images.get("polvi/apache").tag("first")
    project = Project(images)
    try:
        project.compose("up", "--detach")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "1")
        images.client.images.get("first").tag("polvi/apache")


def test_no_request_fails_while_containers_come_go_and_are_replaced(project: Project, tmp_path: Path) -> None:
    requests = Requests(project.address, "shop.example.com", PAGE, NEXT_PAGE)
    eventually_sync(requests.serves, "the first page", timeout=60)
    with Load({"web": requests}).running(clients=4) as load:
        for count in (5, 2):
            project.compose("up", "--detach", "--scale", f"web={count}")
            assert len(project.containers("web")) == count
            load.goes_on(250)

        # A new image under the same name: `up` replaces the containers.
        (tmp_path / "Dockerfile").write_text("FROM first\nCOPY index.html /srv/index.html\n")
        (tmp_path / "index.html").write_text(NEXT_PAGE)
        project.engine.client.images.build(path=str(tmp_path), tag="polvi/apache", rm=True)
        before = {each.id for each in project.containers("web")}
        project.compose("up", "--detach", "--scale", "web=2")
        assert before.isdisjoint({each.id for each in project.containers("web")})
        requests.wait_for(NEXT_PAGE, 250)

        # A lone container, too: requests wait for its successor.
        project.compose("up", "--detach", "--scale", "web=1")
        project.compose("up", "--detach", "--force-recreate", "--no-deps", "web")
        # The registrar withdraws what it has registered, and its successor registers it.
        project.compose("restart", "registrar")
        load.goes_on(250)
    print(f"{requests.served} requests served, {len(requests.failed)} failed")
    assert requests.failed == []
    assert requests.served >= REQUESTS


@pytest.mark.exhaustive
def test_a_program_that_its_stop_signal_would_cut_short_goes_on_for_a_while(project: Project, tmp_path: Path) -> None:
    """It ignores SIGURG, on which it is withdrawn, and is killed after the grace period."""
    web = {
        "image": "polvi/discovery",
        "user": "65532:65532",
        "entrypoint": ["/usr/bin/tini", "--", "/opt/discovery/bin/python", "-c"],
        "command": [SLOW],
        "healthcheck": {"disable": True},
        "stop_signal": "SIGURG",
        "stop_grace_period": "5s",
    }
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"services": {"web": web}}))
    project.compose("up", "--detach", files=[own])
    requests = Requests(project.address, "shop.example.com", PAGE)
    eventually_sync(requests.serves, "the page", timeout=60)
    with Load({"web": requests}).running(clients=8) as load:
        for count in (3, 1):
            project.compose("up", "--detach", "--scale", f"web={count}", files=[own])
            load.goes_on(50)
        project.compose("up", "--detach", "--force-recreate", "--no-deps", "web", files=[own])
        load.goes_on(50)
    assert requests.failed == []


def test_the_containers_have_no_more_rights_than_they_need(project: Project) -> None:
    found = {each.labels["com.docker.compose.service"]: each for each in project.containers()}
    assert set(found) == {"etcd", "registrar", "edge", "web"}
    for name, container in found.items():
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert not host["Privileged"]
        assert host["CapDrop"] == ["ALL"]
        # For the moment in which it takes the group of the engine's socket.
        assert set(host["CapAdd"] or []) == ({"SETUID", "SETGID"} if name == "registrar" else set())
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert [each for each in host["Binds"] or [] if "docker.sock" in each] == (
            [f"{project.engine.socket}:/var/run/docker.sock:rw"] if name == "registrar" else []
        )
        assert bool(host["PortBindings"]) == (name == "edge")
    networks = {name: set(each.attrs["NetworkSettings"]["Networks"]) for name, each in found.items()}
    assert networks["web"] == {"discovery-web"}
    assert networks["etcd"] == {"shop_registry"}
    assert project.engine.client.networks.get("shop_registry").attrs["Internal"]
    checked = [each for name, each in found.items() if name != "web"]  # the registrar checks that one

    def healthy() -> bool:
        for container in checked:
            container.reload()
        return all(each.attrs["State"]["Health"]["Status"] == "healthy" for each in checked)

    eventually_sync(healthy, "the containers to be healthy", timeout=60)


def test_it_listens_on_the_loopback_address_unless_told() -> None:
    services = yaml.safe_load(FILE.read_text())["services"]
    assert {name: each["ports"] for name, each in services.items() if "ports" in each} == {
        "edge": ["${LISTEN:-127.0.0.1:8080}:8080"]
    }


def test_the_page_tells_each_variable_of_the_file_and_its_default() -> None:
    page = (FILE.parent / "README.md").read_text()
    for name, default in set(re.findall(r"\$\{(\w+):-(.*?)\}", FILE.read_text())):
        (row,) = re.findall(rf"^\|.*`{name}`.*\|$", page, re.MULTILINE)
        assert name == "ETCD_IMAGE" or f"`{default}`" in row
