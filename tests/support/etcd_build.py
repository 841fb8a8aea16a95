"""A current etcd, built once from its Go module and kept in the user's cache directory. `make etcd` runs this file."""

import sys
from pathlib import Path

from go_toolchain import build_module, build_once

from discovery.errors import DiscoveryError

BUILT = "3.6.16"
_MODULE = "go.etcd.io/etcd/server/v3"


def build(*, install_go: bool = False) -> Path:
    """The built program; see `build_once`."""
    return build_once(f"etcd-{BUILT}", _make, install_go=install_go, command="make etcd")


def _make(go: Path, directory: Path) -> Path:
    return build_module(go, directory, _MODULE, f"v{BUILT}")


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
