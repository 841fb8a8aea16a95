"""A current etcd, built once from its Go module and kept in the user's cache directory. `make etcd` runs this file."""

import sys
from pathlib import Path

from go_toolchain import build_once, run

from discovery.errors import DiscoveryError

BUILT = "3.6.16"
_MODULE = "go.etcd.io/etcd/server/v3"


def build(*, install_go: bool = False) -> Path:
    """The built program; see `build_once`."""
    return build_once(f"etcd-{BUILT}", _make, install_go=install_go, command="make etcd")


def _make(go: Path, directory: Path) -> Path:
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
