"""Debian's systemd-resolved in the user's cache, extracted and not installed. `make resolved` runs this file.

The package would replace /etc/resolv.conf of the machine. The library of the program is in the package
libsystemd-shared, which is installed wherever systemd is.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PACKAGE = "systemd-resolved"
_PLACES = ("usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved")


def installed() -> Path | None:
    """The program: of the machine, or in the cache."""
    return next((each for top in (Path("/"), _cache()) for each in _in(top) if os.access(each, os.X_OK)), None)


def extract() -> Path:
    """Download and extract the package unless the program is there. Raises CalledProcessError."""
    found = installed()
    if found is not None:
        return found
    _cache().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="discovery-resolved-", dir=_cache().parent) as directory:
        # apt's own user, as which it downloads for root, may not write here.
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", _PACKAGE]
        subprocess.run(command, cwd=directory, check=True)
        (package,) = Path(directory).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{directory}/tree"], check=True)
        Path(directory, "tree").replace(_cache())
    return next(each for each in _in(_cache()) if each.exists())


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "discovery" / _PACKAGE


def _in(top: Path) -> list[Path]:
    return [top / each for each in _PLACES]


if __name__ == "__main__":
    print(extract(), file=sys.stderr)
