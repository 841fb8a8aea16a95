"""A Docker engine in a network namespace of its own: dockerd, its containerd, and where both are reached."""

import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import docker

from discovery.system.embedded import find_program
from discovery.testing import eventually_sync, within
from docker_lab.leftovers import LabDirectory, sweep

_START_SECONDS = 180
_COMMAND_SECONDS = 60


class Engine(ABC):
    """One engine, reached through its socket: dockerd, unless a subclass starts another. A subclass makes the network.

    A context manager: enters started, and leaves no process, mount, link or file. Those of a run that was killed are
    removed by the next. Everything survives `kill`, and `start` begins again with it; what then happens to running
    containers depends on `live_restore`. Needs root.
    """

    def __init__(self, *, live_restore: bool = False) -> None:
        """Describe the engine; its directory and whatever else it has begin with the block."""
        self.live_restore = live_restore
        self._place: LabDirectory
        self._removal: ExitStack
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._clients: list[docker.DockerClient] = []

    @property
    def directory(self) -> Path:
        """The directory of everything that the engine writes."""
        return self._place.path

    @property
    def socket(self) -> Path:
        """The socket of dockerd."""
        return self.directory / "docker.sock"

    @property
    def url(self) -> str:
        """The socket as Docker's clients take it: `DOCKER_HOST`."""
        return f"unix://{self.socket}"

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
        self._process = self.spawn(
            *("dockerd", "--host", self.url, "--containerd", self.directory / "containerd.sock"),
            *("--data-root", self.directory / "data", "--exec-root", self.directory / "exec"),
            *("--pidfile", self.directory / "pid", "--config-file", self.directory / "daemon.json"),
            # The driver systemd, dockerd's choice on a machine of cgroup v2 with systemd, refuses such a parent.
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.name}"),
            *("--shutdown-timeout", "2", *options, *self._options()),
        )
        eventually_sync(self._answers, f"dockerd to answer, see {self.log_path}", timeout=_START_SECONDS)

    def kill(self) -> None:
        """End dockerd by SIGKILL; containerd and the containers live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """Suspend dockerd, which then accepts connections and answers none."""
        self._dockerd.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume dockerd."""
        self._dockerd.send_signal(signal.SIGCONT)  # to one that has ended: nothing

    @property
    def running(self) -> bool:
        """True if dockerd runs, even if dockerd is suspended."""
        return self._process is not None and self._process.poll() is None

    @property
    def name(self) -> str:
        """The name of the network namespace."""
        return self._place.name

    @property
    def log_path(self) -> Path:
        """The log of dockerd, containerd and whatever else `spawn` starts."""
        return self.directory / "log"

    def in_namespace(self, *command: str | Path) -> None:
        """Run a command in the network namespace of dockerd."""
        run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def spawn(self, program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a program in the network namespace. An argument within `directory` makes it end with the engine."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", find_program(program), *arguments]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._spawned.append(process)
        return process

    def __enter__(self) -> Self:
        """Create the namespace and start the engine."""
        sweep()
        with ExitStack() as removal:
            self._place = LabDirectory()
            removal.callback(self._reap)
            removal.callback(self._place.remove)
            removal.callback(self._close_clients)
            self._make_network()
            self._start_containerd()
            self.start()
            self._prepare()
            self._removal = removal.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        self._removal.close()

    @property
    def _dockerd(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("dockerd was never started")
        return self._process

    @abstractmethod
    def _make_network(self) -> None:
        """Choose the name of the network namespace, and make the namespace and the links."""

    def _options(self) -> tuple[str, ...]:
        """Return further options of dockerd."""
        return ()

    def _prepare(self) -> None:  # noqa: B027 - most engines need nothing
        """Do what is to be done once, after the first start."""

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _reap(self) -> None:
        for process in self._spawned:
            process.wait()
        self._spawned.clear()

    def _start_containerd(self) -> None:
        """Start a separate containerd, as Debian's services do, which survives dockerd."""
        (self.directory / "daemon.json").write_text("{}")  # not the host's, nor is this
        config = self.directory / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self.spawn(
            *("containerd", "--config", config, "--address", self.directory / "containerd.sock"),
            *("--root", self.directory / "containerd", "--state", self.directory / "shims"),
        )

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"dockerd ended: {self.log_path.read_text()[-2000:]}")
        with suppress(docker.errors.DockerException):
            return bool(self.client.ping())
        return False


def run(*command: str | Path) -> None:
    """Run a command. Raises subprocess.CalledProcessError if the command fails, TimeoutExpired if it does not end.

    The command has a session of its own: a terminal's Ctrl-C does not reach the command.
    """
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=within(_COMMAND_SECONDS),
    )
