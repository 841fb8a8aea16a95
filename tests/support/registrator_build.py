"""registrator, built once from its Go module: `make registrator` runs this file."""

import sys
from pathlib import Path

from go_toolchain import build_module, build_once

from discovery.errors import DiscoveryError

_COMMIT = "6bfadbc6decd4c5655044e77cd807985ea5360de"
"""The last one of May 2025, after version 7.4; its tags are no versions of Go modules."""
NAME = f"registrator-{_COMMIT[:12]}"
"""The name of the program in the cache."""
_MODULE = "github.com/gliderlabs/registrator"


def build(*, install_go: bool = False) -> Path:
    """The built program; see `build_once`."""
    return build_once(NAME, _make, install_go=install_go, command="make registrator")


def _make(go: Path, directory: Path) -> Path:
    return build_module(go, directory, _MODULE, _COMMIT)


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
