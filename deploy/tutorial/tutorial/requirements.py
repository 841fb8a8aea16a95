"""What the tutorial needs of the machine, all of which is looked for before anything starts."""

import os
from collections.abc import Callable
from pathlib import Path

from discovery.errors import ConfigError
from discovery.system.embedded import find_program, wheel_program

_PACKAGES = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "containerd": "containerd",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
}
"""The programs, and Debian's packages that have them."""
_PACKAGES_OF_IMAGES = {"tini": "tini", "apache2": "apache2-bin", "haproxy": "haproxy"}
"""The programs that the images take from this machine. Debian's haproxy alone runs there, not that of a wheel."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""What the images take from this machine as well."""

Find = Callable[[str], Path]
"""Returns the path of a program, as `find_program` does. Raises ConfigError if there is none."""


def require_root() -> None:
    """Raise ConfigError if this process is not root's."""
    if os.geteuid() != 0:
        raise ConfigError("only root can start Docker engines in namespaces of their own: `make tutorial` asks sudo")


def require_programs(*, images: bool, find: Find = find_program) -> None:
    """Raise ConfigError, with all that is missing and how to install it, if a program is missing.

    `images` tells whether the images are to be built, too.
    """
    missing = [(program, package) for program, package in _PACKAGES.items() if not _is_there(program, find)]
    if images:
        missing += [
            (program, package)
            for program, package in _PACKAGES_OF_IMAGES.items()
            if not _is_there(program, find, wheel=False)
        ]
        if not CERTIFICATES.is_file():
            missing.append((str(CERTIFICATES), "ca-certificates"))
    if missing:
        names = ", ".join(name for name, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        raise ConfigError(f"{names} not found: on Debian, `apt-get install --no-install-recommends {packages}`")


def require_writable(path: Path, option: str) -> None:
    """Raise ConfigError if a file cannot be written: its path, and the option of the command that names the file."""
    if path.is_dir():
        raise ConfigError(f"{option} {path}: that is a directory; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {path.parent}; make it, or name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: not writable; name another file")


def _is_there(program: str, find: Find, *, wheel: bool = True) -> bool:
    try:
        return find(program) != (None if wheel else wheel_program(program))
    except ConfigError:
        return False
