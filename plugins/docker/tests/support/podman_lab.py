"""A Podman engine for tests, in a network namespace of its own, with images of this machine's programs."""

import subprocess

from docker_lab import LinkedEngine
from docker_lab.leftovers import podman_command

from discovery.testing import eventually_sync, within

_CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{directory}/tmp"

[network]
network_backend = "netavark"
network_config_dir = "{directory}/networks"
"""
"""Locks in files, since those in shared memory are common to all of a machine's Podmans. Podman's own
limits may be higher than those of this machine, which is an error."""


class PodmanEngine(LinkedEngine):
    """One `podman system service`, whose socket speaks Docker's API."""

    def start(self) -> None:
        """Start the service and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        self._process = self.spawn(*self._command("system", "service", "--time=0", self.url))
        eventually_sync(self._answers, f"Podman to answer, see {self.log_path}", timeout=180)

    def podman(self, *arguments: str) -> str:
        """Run a command of Podman's, and return what it prints."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", *self._command(*arguments)]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=within(60)
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def restore(self) -> None:
        """Start or resume the service as needed, and remove all pods, containers and named networks."""
        super().restore()
        self.podman("pod", "rm", "--all", "--force", "--time=0")

    def _start_containerd(self) -> None:
        """Configure Podman, which needs no containerd."""
        (self.directory / "containers.conf").write_text(_CONFIG.format(directory=self.directory))

    def _command(self, *arguments: str) -> list[str]:
        return podman_command(self.directory, *arguments)
