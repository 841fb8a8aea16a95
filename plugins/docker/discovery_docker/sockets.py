"""The engine to follow: the one that the configuration or DOCKER_HOST names, or else one with a socket on this machine.

The sockets of this machine, the first of which is taken that this user may use:

1. Docker, of the machine: /var/run/docker.sock
2. Docker, of this user: $XDG_RUNTIME_DIR/docker.sock
3. Podman, of the machine: /run/podman/podman.sock
4. Podman, of this user: $XDG_RUNTIME_DIR/podman/podman.sock

Podman is passed over where Docker is installed: the socket of Docker is away until Docker has started, and a provider
that took Podman meanwhile would withdraw the records of Docker's containers.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from discovery import DiscoveryError
from discovery.toolkit import container_id

PROGRAMS = ("docker", "podman")
"""The words for the first socket of a program, in place of a URL."""

_DIRECTORIES = ("/usr/sbin", "/usr/bin", "/usr/local/bin")
"""Of dockerd, besides those of PATH: the PATH of a user or a unit may lack them."""
_PODMAN_REMEDY = '; Docker is installed here, so Podman is followed only by url = "podman"'


class EngineError(DiscoveryError):
    """The engine cannot be used; the message is one line with the reason and a remedy."""


class Found(NamedTuple):
    """The URL of the engine to follow, and the URLs of other engines whose sockets this user may use."""

    url: str
    others: tuple[str, ...] = ()


def checked_url(text: str) -> str:
    """Return the URL of an engine, or the word for a program. Raises EngineError if it is neither."""
    found = text.strip()
    if found in PROGRAMS:
        return found
    try:
        parts = urlsplit(found)
        if "@" in parts.netloc:  # the URL may hold a password, and is not shown
            raise EngineError(
                "the URL of the Docker engine holds a user name, which Docker does not support: remove it"
            )
        fits = bool(parts.path if parts.scheme == "unix" else parts.hostname and parts.port)
    except ValueError:
        fits = False
    if not fits or parts.scheme not in ("unix", "tcp", "http", "https"):
        raise EngineError(
            f"{found} is not a usable Docker engine: give unix:///PATH or tcp://HOST:PORT, or the word docker or podman"
        )
    return found


def engine_of_environment() -> str:
    """Return the engine that DOCKER_HOST names, empty if none. Raises EngineError if it cannot be an engine."""
    given = os.environ.get("DOCKER_HOST", "").strip()
    try:
        return given and checked_url(given)
    except EngineError as error:
        raise EngineError(f"DOCKER_HOST: {error}") from None


def find_engine(
    url: str | None, root: Path = Path("/"), find_container: Callable[[], str | None] = container_id
) -> Found:
    """Return the engine to follow: `url`, or else DOCKER_HOST, or else the first usable socket. Raises EngineError.

    `url` may be the word for a program. `root` is the directory that has the sockets and programs of the machine.
    `find_container` returns the id of the container that this process runs in, None outside of containers.

    Of sockets that this user may not use the first is returned, so that a request tells why. Where Docker is installed,
    its sockets alone are taken, unless Podman is named; in a container only what is mounted there decides.
    """
    given = checked_url(url) if url else engine_of_environment()
    if given and given not in PROGRAMS:
        return Found(given)
    sockets = [(program, path) for program, path in _local_sockets(root) if given in ("", program)]
    in_container = find_container() is not None
    docker_alone = not given and not in_container and _has_docker(root)
    eligible = [(program, path) for program, path in sockets if program == "docker" or not docker_alone]
    present = [path for _, path in eligible if _is_socket(path)]
    if not present:
        if in_container:
            raise EngineError(_not_mounted(eligible))
        raise EngineError(_absent(eligible) + (_PODMAN_REMEDY if docker_alone else ""))
    first = next(filter(_is_usable, present), present[0])
    # Where Podman stands in for Docker, Docker's socket is a link to Podman's.
    others = [path for _, path in sockets if _is_usable(path) and path.resolve() != first.resolve()]
    return Found(_url(first), tuple(map(_url, others)))


def _local_sockets(root: Path) -> tuple[tuple[str, Path], ...]:
    of_user = Path(os.environ.get("XDG_RUNTIME_DIR") or root / f"run/user/{os.geteuid()}")
    return (
        ("docker", root / "var/run/docker.sock"),
        ("docker", of_user / "docker.sock"),
        ("podman", root / "run/podman/podman.sock"),
        ("podman", of_user / "podman/podman.sock"),
    )


def _has_docker(root: Path) -> bool:
    """Return True if Docker is installed on this machine."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), *_DIRECTORIES]
    path = os.pathsep.join(str(root / place.lstrip("/")) for place in places if place.startswith("/"))
    return shutil.which("dockerd", path=path) is not None


def _is_usable(path: Path) -> bool:
    return _is_socket(path) and os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:  # also in a directory that this user may not enter
        return False


def _url(path: Path) -> str:
    return f"unix://{path}"


def _absent(sockets: Iterable[tuple[str, Path]]) -> str:
    places: dict[str, list[str]] = {}
    for program, path in sockets:
        places.setdefault(program, []).append(str(path))
    searched = ", ".join(f"{program.capitalize()} ({' or '.join(paths)})" for program, paths in places.items())
    starts = " or ".join({"docker": "Docker", "podman": "podman.socket"}[program] for program in places)
    return f"this machine has no socket of {searched}: start {starts}, or set the URL of another engine"


def _not_mounted(sockets: Iterable[tuple[str, Path]]) -> str:
    first: dict[str, str] = {}  # of each program
    for program, path in sockets:
        first.setdefault(program, str(path))
    places = list(first.values())
    mount = f"-v {places[0]}:{places[0]}"
    return (
        f"no socket of an engine is mounted in this container ({' or '.join(places)}): start it with {mount},"
        " or name another engine in DOCKER_HOST"
    )
