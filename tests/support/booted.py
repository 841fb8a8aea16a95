"""A machine that systemd has booted, in a container of the tests' own Docker engine, with this tree in /opt/discovery.

Its programs are this machine's, from /usr. It is on the network of the engine, and reached at the engine's address.
"""

import io
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
from docker.models.containers import Container
from docker_lab import DockerEngine
from histories import RegistryHistory
from relays import relayed

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import cannot_run, eventually_sync

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = "booted"
"""An image whose programs are those of `program_places`, among them this tree's `discovery`."""
_UNITS = "/etc/systemd/system"
_TREE = "/opt/discovery/tree"
_SITE = "/opt/discovery/site"
_PLACES = ("etc", "home", "opt/discovery/bin", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/lib", "var/tmp")
_PACKAGES = ":".join((_TREE, *(f"{_TREE}/plugins/{path.name}" for path in sorted((ROOT / "plugins").iterdir())), _SITE))
# An installation has this as a script of its environment; here the environment is the tests' own, from another place.
_COMMAND = f"""\
#!/bin/sh
export PYTHONPATH={_PACKAGES}
export PYTHONDONTWRITEBYTECODE=1
exec "{Path(sys.executable).resolve()}" -m discovery "$@"
"""
_CGROUPS = Path("/sys/fs/cgroup")
DOCKER_GROUP = 999
PROGRAM = "/opt/discovery/bin/discovery"
"""The command, where the units of `deploy/systemd` have it."""
_BASE = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": f"root:x:0:\nnogroup:x:65534:\ndocker:x:{DOCKER_GROUP}:\nsystemd-journal:x:998:\n",
    "etc/shadow": "root:*:1::::::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",  # else the first boot enables every unit
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/os-release": "ID=debian\n",
    PROGRAM: _COMMAND,
    f"{_UNITS}/lab.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    f"{_UNITS}/docker.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
}


@pytest.fixture
def registry_url(docker_engine: DockerEngine, registry: RegistryHistory, etcd: EmbeddedEtcd) -> Iterator[str]:
    """Return the URL of the registry for machines and containers, which reach etcd through a relay."""
    with relayed(docker_engine.gateway, etcd.port) as relay:
        yield f"etcd://{relay}{registry.prefix}"


class Booted:
    """A context manager: enters booted, leaves no container. `files` are put into it before, by their paths."""

    def __init__(
        self, engine: DockerEngine, files: Mapping[str, str], volumes: Mapping[str, str] | None = None
    ) -> None:
        """Store the arguments. `volumes` are further places of this machine, by their paths there."""
        self._engine = engine
        self._files = files
        self._volumes = volumes or {}
        self._container: Container | None = None

    @property
    def address(self) -> str:
        """The address of the machine for its clients."""
        return self._engine.address

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Run `systemctl`; return what it prints. Raises AssertionError, with the unit's log, if it fails."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command there as root; return its output."""
        assert self._container is not None
        done = self._container.exec_run([*command])
        output = str(done.output.decode(errors="replace"))
        assert not check or done.exit_code == 0, f"{command}: {output}\n{self.log()[-6000:]}"
        return output

    def show(self, unit: str, key: str) -> str:
        """Return a property of a unit. Docker loses the output of a short command now and then on a busy machine."""
        told = eventually_sync(lambda: self.systemctl("show", "--property", key, unit), f"{key} of {unit}")
        return told.strip().removeprefix(f"{key}=")

    def main_pid(self, unit: str) -> int:
        """Return the process id of a unit's main process, 0 if there is none."""
        return int(self.show(unit, "MainPID"))

    def is_active(self, unit: str) -> bool:
        """Return True if the unit runs."""
        return self.systemctl("is-active", unit, check=False).strip() == "active"

    def runs_anew(self, unit: str, before: int) -> bool:
        """Return True if the unit runs, with another main process than before."""
        return self.is_active(unit) and self.main_pid(unit) not in (0, before)

    def users_with_processes(self) -> set[str]:
        """Return the names of the users who have processes."""
        return set(self.run("ps", "-e", "-o", "user:32=").split())

    def log(self, *units: str) -> str:
        """Return the journal, of all units or of some."""
        assert self._container is not None
        chosen = [argument for unit in units for argument in ("-u", unit)]
        done = self._container.exec_run(["journalctl", "--no-pager", "-o", "short-precise", *chosen])
        return str(done.output.decode(errors="replace"))

    def put(self, files: Mapping[str, str]) -> None:
        """Write files, by their paths."""
        assert self._container is not None
        self._container.put_archive("/", _archive((), files))

    def __enter__(self) -> Self:
        """Boot."""
        client = self._engine.client
        import_image(self._engine)
        places = {**program_places(), **self._volumes}
        volumes: dict[str, Any] = {here: {"bind": there, "mode": "ro"} for here, there in places.items()}
        groups = control_groups(_CGROUPS)
        volumes |= groups.volumes
        self._container = client.containers.create(
            IMAGE,
            command=[*groups.before, "/lib/systemd/systemd", "--unit=lab.target", "--show-status=false"],
            network_mode="host",
            cgroupns=groups.namespace,
            cap_add=["SYS_ADMIN"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            tmpfs={"/run": "exec", "/run/lock": "", "/tmp": "", **groups.tmpfs},
            volumes=volumes,
            environment={"container": "docker"},
            stop_signal="SIGRTMIN+3",
        )
        self.put(self._files)
        self._container.start()
        eventually_sync(self._is_booted, "the machine to boot", timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the machine."""
        if self._container is not None:
            print(self.log())  # which pytest shows if the test has failed
            self._container.remove(force=True, v=True)

    def _is_booted(self) -> bool:
        return self.is_active("lab.target")


class _ControlGroups(NamedTuple):
    """How a container gets the control groups that its systemd needs; `before` is the beginning of its command."""

    namespace: str
    volumes: Mapping[str, Mapping[str, str]]
    tmpfs: Mapping[str, str]
    before: tuple[str, ...]


def control_groups(place: Path) -> _ControlGroups:
    """Return what suits the version of control groups that this machine has at `place`.

    Nothing is bound that does not exist: Docker would create it on this machine.
    """
    if (place / "cgroup.controllers").exists():
        # cgroup v2: a namespace of the container's own, whose hierarchy Docker mounts read-only. These tests were never
        # run on such a machine; tried was only that a mount of cgroup v2 in a new namespace can be made writable.
        writable = ("/bin/sh", "-c", 'mount -o remount,rw /sys/fs/cgroup && exec "$@"', "sh")
        return _ControlGroups("private", {}, {}, writable)
    systemd = str(place / "systemd")
    if not Path(systemd).is_dir():
        cannot_run(f"no control groups for systemd: neither {place}/cgroup.controllers nor {systemd}")
    # systemd mounts what is missing below /sys/fs/cgroup, and then makes the directory read-only. So it is the
    # container's own, with the one hierarchy that systemd needs; this machine's directory stays as it is.
    return _ControlGroups("host", {systemd: {"bind": systemd, "mode": "rw"}}, {str(place): ""}, ())


def import_image(engine: DockerEngine) -> None:
    """Give an engine the image `IMAGE`."""
    links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    engine.client.api.import_image_from_data(_archive(_PLACES, _BASE, links), repository=IMAGE)


def program_places() -> dict[str, str]:
    """Return the places of this machine whose programs the containers of `IMAGE` use, with the paths there."""
    places = {"/usr": "/usr", str(ROOT): _TREE, sysconfig.get_paths()["purelib"]: _SITE}
    if not Path(sys.executable).resolve().is_relative_to("/usr"):
        places[sys.base_prefix] = sys.base_prefix
    return places


def unit_files() -> dict[str, str]:
    """Return what `deploy/systemd/README.md` says to copy, by the paths where it is installed."""
    place = DEPLOY / "systemd"
    files = {f"{_UNITS}/{path.name}": path.read_text() for path in (*place.glob("*.service"), *place.glob("*.socket"))}
    for kind in ("sysusers.d", "tmpfiles.d"):
        files[f"/etc/{kind}/discovery.conf"] = (place / kind / "discovery.conf").read_text()
    return files


def _archive(places: Iterable[str], files: Mapping[str, str], links: Mapping[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for place in places:
            directory = tarfile.TarInfo(place)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if place.endswith("tmp") else 0o755
            tar.addfile(directory)
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for path, text in files.items():
            file = tarfile.TarInfo(path.lstrip("/"))
            content = text.encode()
            file.size, file.mode = len(content), 0o755 if "/bin/" in path else 0o644
            tar.addfile(file, io.BytesIO(content))
    return data.getvalue()
