"""A Docker engine for fault tests, in a network namespace of its own, with images of this machine's programs.

Nothing is pulled, the host's own Docker is not touched, and several engines run side by side. Needs root.
"""

import fcntl
import io
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import docker
from docker.models.containers import Container

from discovery.system.embedded import find_program
from discovery.testing import eventually_sync, within

_PREFIX = "dlab-"
_ATTEMPTS = 50
_SPACE = list(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))  # kept for labs by RFC 2544
_CGROUPS = Path("/sys/fs/cgroup")

_MODULES = Path("/usr/lib/apache2/modules")
_APACHE_MODULES = ("mpm_event", "authz_core", "dir", "headers", "status")
_APACHE_CONFIG = """\
ServerName apache.invalid
Listen ${{PORT}}
PidFile /run/httpd.pid
{modules}
User nobody
Group nogroup
ErrorLog /dev/stderr
LogLevel warn
StartServers 1
ServerLimit 2
ThreadsPerChild 25
MaxRequestWorkers 50
ExtendedStatus On
DocumentRoot /srv
DirectoryIndex index.html
Header always set X-Container ${{HOSTNAME}}
<Location /server-status>
    SetHandler server-status
</Location>
"""


class DockerEngine:
    """One dockerd, reached from this machine at `address` (and `address6`) and through its socket.

    Its containers reach this machine at `gateway`.

    A context manager: enters started, and leaves no process, mount, link or file. Those of a run that was killed are
    removed by the next. Everything survives `kill`, and `start` begins again with it; what then happens to running
    containers depends on `live_restore`.
    """

    def __init__(self, *, live_restore: bool = False) -> None:
        """Create the directory; start nothing."""
        self.live_restore = live_restore
        self.directory, self._lock = _new_directory()
        self.socket = self.directory / "docker.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._clients: list[docker.DockerClient] = []

    @property
    def client(self) -> docker.DockerClient:
        """A client of the Docker SDK."""
        if not self._clients:
            self.new_client()
        return self._clients[0]

    def new_client(self, timeout: float = 60) -> docker.DockerClient:
        """Return another client, closed with the engine: threads must not share a client."""
        client = docker.DockerClient(self.url, version="auto", timeout=within(timeout), max_pool_size=64)
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        (self.directory / "pid").unlink(missing_ok=True)
        options = ["--live-restore"] if self.live_restore else []
        self._process = self._spawn(
            *("dockerd", "--host", self.url, "--containerd", self.directory / "containerd.sock"),
            *("--data-root", self.directory / "data", "--exec-root", self.directory / "exec"),
            *("--pidfile", self.directory / "pid", "--config-file", self.directory / "daemon.json"),
            *("--cgroup-parent", f"/{self.name}", "--shutdown-timeout", "2", *options),
        )
        eventually_sync(self._answers, f"dockerd to answer, see {self.log_path}", timeout=180)

    def kill(self) -> None:
        """End dockerd by SIGKILL; containerd and the containers live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """Suspend dockerd, which then accepts connections and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume dockerd."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)  # to one that has ended: nothing

    @property
    def log_path(self) -> Path:
        """The log of dockerd and containerd."""
        return self.directory / "log"

    def run(self, name: str, image: str = "apache", *, publish: str | None = "", **options: Any) -> Container:
        """`docker run -d -p ADDRESS::80`: `publish` is the address, "" the engine's own, None for no port at all."""
        if publish is not None:
            options.setdefault("ports", {"80/tcp": (publish or self.address, None)})
        return self.client.containers.run(image, name=name, detach=True, **options)

    def network(self, name: str) -> None:
        """`docker network create`; this machine reaches its containers by their own addresses. One at a time."""
        pool = docker.types.IPAMPool(subnet=str(self.own_subnet))
        self.client.networks.create(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))

    def port(self, name: str, port: int = 80) -> int:
        """Return the current host port of a container's port. Raises LookupError if the port is not published."""
        bindings = self.client.api.inspect_container(name)["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        if not bindings:
            raise LookupError(f"container {name} publishes no port {port}")
        return int(bindings[0]["HostPort"])

    def pid(self, name: str) -> int:
        """Return the process id of a container. Raises LookupError if the container does not run."""
        pid = int(self.client.api.inspect_container(name)["State"]["Pid"])
        if not pid:  # which to kill() would be our own process group
            raise LookupError(f"container {name} does not run")
        return pid

    def restore(self) -> None:
        """Start or resume dockerd as needed, and remove all containers and named networks."""
        assert self._process is not None
        self.resume()
        if self._process.poll() is not None:
            self.start()
        client = self.client
        for found in client.api.containers(all=True):
            with suppress(docker.errors.NotFound):
                client.api.remove_container(found["Id"], force=True, v=True)
        client.networks.prune()

    def in_namespace(self, *command: str | Path) -> None:
        """Run a command in the network namespace of dockerd."""
        _run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def __enter__(self) -> Self:
        """Create the namespace and start the engine."""
        sweep()
        try:
            self._make_network()
            self._start_containerd()
            self.start()
            self._load_images()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything."""
        for client in self._clients:
            client.close()
        _remove(self.directory)
        for process in self._spawned:
            process.wait()
        self._lock.close()

    def _make_network(self) -> None:
        for at in random.SystemRandom().sample(range(len(_SPACE)), _ATTEMPTS):
            self.name = f"dlab{at}"
            # Whoever can make this link has the number.
            if subprocess.run(
                ["ip", "link", "add", self.name, "type", "veth", "peer", "name", f"{self.name}n"],
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode:
                continue
            break
        (self.directory / "name").write_text(self.name)
        subnet = _SPACE[at]
        here = self.gateway = str(subnet[1])
        self.address = str(subnet[2])
        self.own_subnet = next(net for net in subnet.subnets(new_prefix=25) if subnet[1] not in net)
        self.address6 = f"fd5c:1818:0:{at:x}::2"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "set", f"{self.name}n", "netns", self.name, "name", "eth0")
        _run("ip", "address", "add", f"{here}/25", "dev", self.name)
        _run("ip", "link", "set", self.name, "up")
        inside = ("ip", "-n", self.name)
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "address", "add", f"{self.address}/25", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "route", "add", "default", "via", here)
        _run("ip", "route", "add", str(self.own_subnet), "via", self.address)
        with suppress(subprocess.CalledProcessError):  # where the kernel has no IPv6, the tests of it say so
            _run("ip", "address", "add", f"fd5c:1818:0:{at:x}::1/64", "dev", self.name, "nodad")
            _run(*inside, "address", "add", f"{self.address6}/64", "dev", "eth0", "nodad")

    def _start_containerd(self) -> None:
        """Start a separate containerd, as Debian's services do, which survives dockerd."""
        (self.directory / "daemon.json").write_text("{}")  # not the host's, nor is this
        config = self.directory / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self._spawn(
            *("containerd", "--config", config, "--address", self.directory / "containerd.sock"),
            *("--root", self.directory / "containerd", "--state", self.directory / "shims"),
        )

    def _spawn(self, program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command = ["nsenter", f"--net=/run/netns/{self.name}", find_program(program), *arguments]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._spawned.append(process)
        return process

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"dockerd ended: {self.log_path.read_text()[-2000:]}")
        with suppress(docker.errors.DockerException):
            return bool(self.client.ping())
        return False

    def _load_images(self) -> None:
        for tag, context in (("apache", apache_image()), ("busybox", busybox_image())):
            self.client.images.build(fileobj=io.BytesIO(context), custom_context=True, tag=tag, rm=True)
        # For `network`: what reaches a container past its published ports is otherwise dropped.
        self.in_namespace("iptables", "-I", "DOCKER-USER", "-d", str(self.own_subnet), "-j", "ACCEPT")


def apache_image() -> bytes:
    """Return a build context for Debian's Apache httpd with mod_status; the header X-Container names the container."""
    binary = find_program("apache2")
    modules = {name: _MODULES / f"mod_{name}.so" for name in _APACHE_MODULES}
    config = _APACHE_CONFIG.format(
        modules="\n".join(f"LoadModule {name}_module {path}" for name, path in modules.items())
    )
    # It is loaded while running, to cancel threads, so that ldd does not know.
    dlopened = next(
        Path(line.split()[-1]) for line in _output("ldconfig", "-p").splitlines() if "libgcc_s.so.1" in line
    )
    files: dict[Path, bytes | Path] = {
        Path("/etc/passwd"): b"root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n",
        Path("/etc/group"): b"root:x:0:\nnogroup:x:65534:\n",
        Path("/etc/httpd.conf"): config.encode(),
        Path("/srv/index.html"): b"hello from apache\n",
        Path("/run/.keep"): b"",
    }
    files |= {path: path for path in _libraries([binary, *modules.values(), dlopened])}
    dockerfile = (
        "FROM scratch\nADD root.tar /\nENV PORT=80\nSTOPSIGNAL SIGWINCH\nEXPOSE 80\n"
        f'CMD ["{binary}", "-DFOREGROUND", "-f", "/etc/httpd.conf"]\n'
    )
    return _context(dockerfile, files)


def busybox_image() -> bytes:
    """Return a build context for a small web server, from Debian's busybox-static."""
    files: dict[Path, bytes | Path] = {
        Path("/bin/busybox"): find_program("busybox"),
        Path("/srv/index.html"): b"hello from busybox\n",
    }
    dockerfile = (
        "FROM scratch\nADD root.tar /\nSTOPSIGNAL SIGKILL\nEXPOSE 80\n"
        'CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv"]\n'
    )
    return _context(dockerfile, files)


def sweep() -> None:
    """Remove the leftovers of engines whose test process was killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(directory):
            _remove(directory)


def _new_directory() -> tuple[Path, IO[str]]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(OSError):  # one that another's sweep took before it was locked
            return directory, _locked(directory)


def _locked(directory: Path) -> IO[str]:
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock


def _remove(directory: Path) -> None:
    """Remove the engine of a directory."""
    eventually_sync(lambda: not _kill(_processes(directory)), f"the processes of {directory} to end")
    for place in reversed(_mounts(directory)):
        subprocess.run(["umount", "--lazy", place], check=False)
    with suppress(OSError):
        name = (directory / "name").read_text()
        # The other end of the link is in the namespace, and goes with it.
        for command in (("ip", "netns", "delete", name), ("ip", "link", "delete", name)):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        for group in (*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")):
            for place, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(place).rmdir()
    shutil.rmtree(directory, ignore_errors=True)


def _processes(directory: Path) -> list[int]:
    """Return the processes with the directory on their command line or a container as root."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (place / "cmdline").read_bytes().decode(errors="replace")
            mounts = (place / "mountinfo").read_text(errors="replace").splitlines()
            if f"{directory}/" in command or any(line.split()[4] == "/" and f"{directory}/" in line for line in mounts):
                found.append(int(place.name))
    return found


def _kill(pids: list[int]) -> list[int]:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _mounts(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for line in lines if (place := line.split()[4]).startswith(f"{directory}/")]


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """Return the programs and all shared libraries of the programs."""
    seen = set()
    for program in programs:
        seen |= {program, *map(Path, re.findall(r"(/\S+) \(0x", _output("ldd", program)))}
    return iter(sorted(seen))


def _context(dockerfile: str, files: dict[Path, bytes | Path]) -> bytes:
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode="w") as tar:
        for place, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            _add(tar, str(place).lstrip("/"), data)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.encode())
        _add(tar, "root.tar", root.getvalue())
    return context.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755
    tar.addfile(entry, io.BytesIO(data))


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
