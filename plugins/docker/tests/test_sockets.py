"""The engine that is followed: by the configuration, by DOCKER_HOST, or by the sockets of this machine."""

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from discovery.cli import main
from discovery_docker.sockets import EngineError, Found, checked_url, find_engine

DOCKER, PODMAN = "var/run/docker.sock", "run/podman/podman.sock"
OWN_DOCKER, OWN_PODMAN = "user/docker.sock", "user/podman/podman.sock"

Listen = Callable[..., None]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory in place of /, with a short path, and in it the directory of this user."""
    with TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{place}/user")
        yield Path(place)


@pytest.fixture
def listen(root: Path) -> Iterator[Listen]:
    """Return a function that creates sockets below `root`."""
    with ExitStack() as stack:

        def listen(*places: str, mode: int = 0o666) -> None:
            for place in places:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(root / place))
                (root / place).chmod(mode)

        yield listen


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as the user nobody, since root may use every file."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("given", ["tcp://10.0.0.1:2375", "unix:///run/mine.sock"])
def test_the_configuration_precedes_the_environment_and_that_precedes_the_sockets(
    given: str, root: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(DOCKER, PODMAN)
    assert find_engine(given, root) == Found(given)
    monkeypatch.setenv("DOCKER_HOST", given)
    assert find_engine(None, root) == Found(given)
    assert find_engine("unix:///run/another.sock", root) == Found("unix:///run/another.sock")
    assert find_engine("podman", root).url == f"unix://{root}/{PODMAN}"
    monkeypatch.setenv("DOCKER_HOST", "")
    assert find_engine(None, root).url == f"unix://{root}/{DOCKER}"


def test_what_cannot_be_an_engine_is_a_fault_of_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://docker@web-1")
    with pytest.raises(EngineError, match="^DOCKER_HOST: the URL of the Docker engine holds a user name"):
        find_engine(None, root)
    monkeypatch.setenv("DOCKER_HOST", "/run/docker.sock")
    assert main(["register-container", "b1", "80", "web", "--registry", f"file://{root}"]) == 2
    told = capfd.readouterr().err
    assert told.startswith("discovery: DOCKER_HOST: /run/docker.sock is not a usable Docker engine: give unix:///PATH")


def test_the_order_of_the_sockets(root: Path, listen: Listen) -> None:
    order = [DOCKER, OWN_DOCKER, PODMAN, OWN_PODMAN]
    listen(*order)
    while order:
        urls = [f"unix://{root}/{place}" for place in order]
        assert find_engine(None, root) == Found(urls[0], tuple(urls[1:]))
        (root / order.pop(0)).unlink()


def test_a_word_names_the_program(root: Path, listen: Listen) -> None:
    listen(DOCKER, OWN_PODMAN)
    assert find_engine("podman", root) == Found(f"unix://{root}/{OWN_PODMAN}")
    assert find_engine(" docker ", root) == Found(f"unix://{root}/{DOCKER}")
    assert checked_url("podman") == "podman"


def test_a_socket_that_this_user_may_not_use_is_taken_only_if_there_is_no_other(root: Path, listen: Listen) -> None:
    """As where the socket of Docker is another user's, and is mounted in a container."""
    listen(DOCKER, mode=0o600)
    listen(OWN_PODMAN)
    with as_nobody():
        assert find_engine(None, root) == Found(f"unix://{root}/{OWN_PODMAN}")
        assert find_engine("docker", root) == Found(f"unix://{root}/{DOCKER}", ())


def test_podman_in_dockers_place_is_one_engine(root: Path, listen: Listen) -> None:
    """As with Debian's package podman-docker."""
    listen(PODMAN)
    (root / DOCKER).parent.mkdir(parents=True)
    (root / DOCKER).symlink_to(root / PODMAN)
    assert find_engine(None, root) == Found(f"unix://{root}/{DOCKER}")


@pytest.mark.parametrize("place", ["usr/sbin", "usr/bin", "usr/local/bin", "opt/docker"])
def test_where_docker_is_installed_podman_never_takes_its_place(
    place: str, root: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket of Docker is away until Docker has started, as when the machine starts or Docker is upgraded."""

    def outside() -> None:
        return None

    monkeypatch.setenv("PATH", "/opt/docker:/nowhere")
    dockerd = root / place / "dockerd"
    dockerd.parent.mkdir(parents=True)
    dockerd.touch(0o755)
    listen(PODMAN, OWN_PODMAN)
    with pytest.raises(EngineError) as raised:
        find_engine(None, root, outside)
    assert str(raised.value) == (
        f"this machine has no socket of Docker ({root}/{DOCKER} or {root}/{OWN_DOCKER}): start Docker, or set the URL"
        ' of another engine; Docker is installed here, so Podman is followed only by url = "podman"'
    )
    podmans = [f"unix://{root}/{each}" for each in (PODMAN, OWN_PODMAN)]
    assert find_engine("podman", root) == Found(podmans[0], (podmans[1],))
    listen(DOCKER, mode=0o600)
    assert find_engine(None, root, outside) == Found(f"unix://{root}/{DOCKER}", tuple(podmans))
    with as_nobody():
        assert find_engine(None, root, outside) == Found(f"unix://{root}/{DOCKER}", tuple(podmans))


def test_in_a_container_the_mounted_sockets_alone_decide(root: Path, listen: Listen) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/dockerd").touch(0o755)
    listen(PODMAN)
    assert find_engine(None, root, lambda: "1" * 64) == Found(f"unix://{root}/{PODMAN}")


def test_what_is_no_socket_is_no_engine(root: Path, listen: Listen) -> None:
    listen(OWN_PODMAN)
    (root / DOCKER).mkdir(parents=True)  # as `docker run -v /var/run/docker.sock:...` makes it where there is none
    assert find_engine(None, root) == Found(f"unix://{root}/{OWN_PODMAN}")


def test_in_a_container_without_a_socket_the_remedy_is_to_mount_it(root: Path, listen: Listen) -> None:
    (root / DOCKER).mkdir(parents=True)  # as `docker run -v /var/run/docker.sock:...` makes it where there is none
    with pytest.raises(EngineError) as raised:
        find_engine(None, root, lambda: "1" * 64)
    place = f"{root}/{DOCKER}"
    assert str(raised.value) == (
        f"no socket of an engine is mounted in this container ({place} or {root}/{PODMAN}):"
        f" start it with -v {place}:{place}, or name another engine in DOCKER_HOST"
    )


def test_without_a_socket_all_places_are_named(root: Path) -> None:
    with pytest.raises(EngineError) as raised:
        find_engine(None, root, lambda: None)
    assert str(raised.value) == (
        f"this machine has no socket of Docker ({root}/{DOCKER} or {root}/{OWN_DOCKER}), Podman ({root}/{PODMAN} or"
        f" {root}/{OWN_PODMAN}): start Docker or podman.socket, or set the URL of another engine"
    )
    with pytest.raises(EngineError, match="no socket of Podman .* start podman.socket, or set"):
        find_engine("podman", root, lambda: None)
