"""Directories of a lab, and what each leads to: processes, mounts, a network namespace, a link and control groups."""

import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from discovery.demo.directories import is_private, locked, new_directory
from discovery.errors import ConfigError
from discovery.system.embedded import find_program
from discovery.testing import eventually_sync

_PREFIX = "dlab-"
_CGROUPS = Path("/sys/fs/cgroup")
_LINK = re.compile(r"dlab[0-9]{1,3}")
"""What `LinkedEngine` calls its link, and the network namespace behind the link."""
_REMOVAL_SECONDS = 60
"""Until the removal of Podman's containers is given up: a busy machine removes a dozen containers in this time."""
_COMMAND_SECONDS = 60

_log = logging.getLogger(__name__)


class LabDirectory:
    """A new temporary directory, locked for as long as the directory is in use. A context manager, if that suits.

    Whatever runs for the directory has a path within the directory on its command line, or the directory of a container
    as root. The file `name` names the network namespace and the link. Only this user has rights to the directory.
    """

    def __init__(self) -> None:
        """Create and lock the directory."""
        self.path, self._lock = new_directory(_PREFIX)

    @property
    def name(self) -> str:
        """The name of the network namespace, of the link to it if there is one, and of the control group."""
        return (self.path / "name").read_text()

    @name.setter
    def name(self, name: str) -> None:
        draft = self.path / "name.draft"
        draft.write_text(name)
        draft.rename(self.path / "name")  # whole or not at all: the process may be killed at any time

    def __enter__(self) -> Path:
        """Return the path."""
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the directory as `remove` does."""
        self.remove()

    def kill(self) -> None:
        """End all processes by SIGKILL, those in containers included, and wait for the end of the processes."""
        eventually_sync(lambda: not _kill(_processes(self.path)), f"the processes of {self.path} to end")

    def unmount(self) -> None:
        """Unmount what is mounted in the directory."""
        _unmount(self.path)

    def remove(self) -> None:
        """Remove the directory and everything that runs for the directory."""
        _remove(self.path)
        self._lock.close()


def sweep() -> None:
    """Remove the directories of labs whose process was killed. What cannot be removed is left, with a warning.

    Everyone may create files in the temporary directory. So only a directory counts that is this user's alone.
    """
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if not is_private(directory):
                continue
            with locked(directory):
                _remove(directory)
        except (BlockingIOError, FileNotFoundError):  # in use, or removed by another sweep
            continue
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            _log.warning("%s of an earlier run cannot be removed: %s", directory, error)


def delete_namespace(name: str) -> None:
    """Delete the network namespace of a name, if there is one, and every link that has an end there."""
    _try("ip", "netns", "delete", name)


def podman_command(directory: Path, *arguments: str) -> list[str]:
    """Return a command of the Podman whose containers are in a lab's directory, with its `containers.conf` there."""
    return [
        *("env", f"CONTAINERS_CONF={directory}/containers.conf", str(find_program("podman"))),
        *("--root", f"{directory}/data", "--runroot", f"{directory}/run", *arguments),
    ]


def _remove(directory: Path) -> None:
    if (directory / "containers.conf").exists():  # of Podman: the namespaces of its containers would stay
        command = podman_command(directory, "rm", "--all", "--force", "--time=0")
        with suppress(OSError, ConfigError, subprocess.TimeoutExpired):
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_REMOVAL_SECONDS
            )
    eventually_sync(lambda: not _kill(_processes(directory)), f"the processes of {directory} to end")
    _unmount(directory)
    if name := _name(directory):
        # The other end of the link is in the namespace, and goes with it.
        delete_namespace(name)
        _try("ip", "link", "delete", name)
        for group in (*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")):
            for place, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(place).rmdir()
    shutil.rmtree(directory, ignore_errors=True)


def _name(directory: Path) -> str:
    """Return the name in the file `name` if a lab with this directory can have the name, and else nothing."""
    with suppress(FileNotFoundError):
        name = (directory / "name").read_text()
        if name == directory.name or _LINK.fullmatch(name):
            return name
    return ""


def _unmount(directory: Path) -> None:
    for place in reversed(_mounts(directory)):
        _try("umount", "--lazy", place)


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


def _try(*command: str) -> None:
    """Run a command, which may fail, in a session of its own: a terminal's Ctrl-C does not reach the command."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, stderr=subprocess.DEVNULL, check=False, start_new_session=True, timeout=_COMMAND_SECONDS
        )
