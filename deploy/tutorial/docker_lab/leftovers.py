"""Directories of a lab, and what each leads to: processes, mounts, a network namespace, a link and control groups."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from discovery.testing import eventually_sync

_PREFIX = "dlab-"
_CGROUPS = Path("/sys/fs/cgroup")
_REMOVAL_SECONDS = 60
"""Until the command of the file `removal` is given up: a busy machine removes a dozen containers in this time."""


class LabDirectory:
    """A new temporary directory, locked for as long as the directory is in use.

    Whatever runs for the directory has a path within the directory on its command line, or the directory of a container
    as root. The file `name` names the network namespace and the link. The file `removal`, if there is one, has as JSON
    the command that removes what the directory does not lead to.
    """

    def __init__(self) -> None:
        """Create and lock the directory."""
        self.path, self._lock = _new_directory()

    @property
    def name(self) -> str:
        """The name of the network namespace, of the link to it if there is one, and of the control group."""
        return (self.path / "name").read_text()

    @name.setter
    def name(self, name: str) -> None:
        (self.path / "name").write_text(name)

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
    """Remove the directories of labs whose process was killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(directory):
            _remove(directory)


def delete_namespace(name: str) -> None:
    """Delete the network namespace of a name, if there is one, and every link that has an end there."""
    _try("ip", "netns", "delete", name)


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
    with suppress(OSError, ValueError, subprocess.TimeoutExpired):
        command = json.loads((directory / "removal").read_text())
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_REMOVAL_SECONDS)
    eventually_sync(lambda: not _kill(_processes(directory)), f"the processes of {directory} to end")
    _unmount(directory)
    with suppress(OSError):
        name = (directory / "name").read_text()
        # The other end of the link is in the namespace, and goes with it.
        delete_namespace(name)
        _try("ip", "link", "delete", name)
        for group in (*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")):
            for place, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(place).rmdir()
    shutil.rmtree(directory, ignore_errors=True)


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
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False, start_new_session=True)
