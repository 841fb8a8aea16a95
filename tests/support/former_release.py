"""discovery 0.1 at the commit e0f34d1, installed: what an upgrade is tested from.

Its sources are recorded in `former/e0f34d1.tar.xz`, because a checkout may be shallow or have no history at all:

    git archive --prefix=e0f34d1/ e0f34d1 pyproject.toml README.md LICENSE CHANGELOG.md discovery plugins/haproxy \\
        plugins/tcpproxy ':!plugins/*/tests' ':!discovery/demo' | xz -9e

They are installed once, into an environment of their own in the user's cache directory, with their dependencies from
the package index.
"""

import fcntl
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from go_toolchain import cached

from discovery.errors import DiscoveryError

COMMIT = "e0f34d1"
FORMER = Path(__file__).parent / "former"
"""What is recorded of it."""
_SOURCES = FORMER / f"{COMMIT}.tar.xz"
_PROJECTS = (".", "plugins/haproxy", "plugins/tcpproxy")


def former_discovery() -> Path:
    """Return the program `discovery` of 0.1, which the first call installs. Raises DiscoveryError."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    directory = cached(f"discovery-{COMMIT}-{python}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    program = directory / "bin" / "discovery"
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            _install(directory)
            (directory / "complete").touch()
    return program


def _install(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="discovery-former-") as place:
        with tarfile.open(_SOURCES) as archive:
            archive.extractall(place, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(place)
        _run(sys.executable, "-m", "venv", str(directory))
        sources = [f"{place}/{COMMIT}/{project}" for project in _PROJECTS]
        _run(f"{directory}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *sources)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()[-1000:]
        raise DiscoveryError(f"discovery {COMMIT} cannot be installed: {' '.join(command)}: {said}")
