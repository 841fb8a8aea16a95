"""The default owner of a registration: who holds one lock file, on one machine."""

import hashlib
import hmac
import os
import re
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from discovery.system.files import ABSENT
from discovery.system.rundir import is_free

_MOST_PATH = 400  # bytes; an owner may have 1,024
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_DEFAULT = re.compile(r"(.+?)/.+@[0-9]+:(/.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DefaultOwner:
    """The owner of `what` on this machine while this process holds the lock file `lock`.

    Only one process can hold the lock, so two living registrars never have the same default owner. The same command
    started again after a crash has it. `machine` is another name of the machine than `machine_id()`.
    """

    what: str
    lock: Path
    machine: str = ""

    def __str__(self) -> str:
        """The name, as in a record: the machine, what is registered, the user and the lock file."""
        return self._on(self.machine or machine_id())

    def succeeds(self, other: str) -> bool:
        """Return True if a record of the owner `other` may be taken over at once.

        That is so if `other` is how earlier versions named this owner, also without `machine`, or a default owner on
        this machine whose lock no process holds: that owner has crashed.
        """
        if other in (self._formerly, self._on(machine_id())):
            return True
        match = _DEFAULT.fullmatch(other)
        return match is not None and match[1] == machine_id() and _is_left(Path(match[2]))

    def _on(self, machine: str) -> str:
        return f"{machine}/{self.what}@{os.geteuid()}:{_path(self.lock)}"

    @property
    def _formerly(self) -> str:
        return f"{machine_id()}/{self.what}"


@cache
def machine_id() -> str:
    """The part of an owner's name that identifies this machine. Constant while this process runs.

    Derived from /etc/machine-id as machine-id(5) asks for, since the id itself is not for publication, and from the
    host name, since clones and containers of one image may have one id; where there is no id, the host name. A
    container's id is added: on the host's network it has the host's name.
    """
    name = socket.gethostname()
    if container := container_id():
        name = f"{name}-{container[:12]}"
    with suppress(*ABSENT):
        if id_ := Path("/etc/machine-id").read_bytes().strip():
            return hmac.digest(id_, b"discovery-framework\0" + os.fsencode(name), "sha256").hex()[:16]
    return name


def container_id() -> str | None:
    """Return the id of the container that this process runs in, 64 hexadecimal digits; None outside a container.

    Docker, Podman and containerd mount the files of a container's network from a directory with its id as its name.
    Reads a file of /proc; any thread may call the function.
    """
    with suppress(*ABSENT):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            root, mounted_at = line.split(" ", 5)[3:5]
            if mounted_at == "/etc/hostname" and (match := _CONTAINER.search(root)) is not None:
                return match[0]
    return None


def _path(lock: Path) -> str:
    """The path, links resolved; a digest in its place where it is too long or unprintable for a record."""
    path = os.path.realpath(lock)
    if path.isprintable() and len(os.fsencode(path)) <= _MOST_PATH:
        return path
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _is_left(lock: Path) -> bool:
    """Return True if the lock file is there and no process holds the lock.

    A process that ends in order removes the file.
    """
    try:
        # The path comes from a record: nothing but a file is opened, since opening a device may act.
        if not stat.S_ISREG(lock.lstat().st_mode):
            return False
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # also where it belongs to another user, of whom nothing can be said
        return False
    try:
        return is_free(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
