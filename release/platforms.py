"""`make platforms`: whether wheels of every dependency exist for each version of Python and each machine.

It installs nothing. It asks the package index for all of them, so CI does not run it. It needs the wheels in `dist/`.
"""

import json
import sys
import tempfile
from pathlib import Path

from release import packages, versions
from release.commands import ReleaseError, module

MACHINES = ("x86_64", "aarch64")
_LIBRARIES = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""The C libraries of Debian 10 and of Red Hat 8, and later."""


def resolved(wheels: tuple[Path, ...], python: str, machine: str) -> int:
    """Return how many wheels `wheels` need on `python` and `machine`, their own included. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="discovery-platforms-") as directory:
        report = Path(directory, "report.json")
        where = ("--dry-run", "--ignore-installed", "--target", f"{directory}/target", "--report", report)
        platforms = [part for each in _LIBRARIES for part in ("--platform", f"{each}_{machine}")]
        which = ("--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms)
        module("pip", "install", "--quiet", *where, *which, *wheels)
        return len(json.loads(report.read_text())["install"])


def main() -> None:
    """Print a line for each version of Python and each machine; exit with 1 if a wheel is missing."""
    wheels = packages.wheels(versions.ROOT / "dist")
    if not wheels:
        sys.exit("make platforms: there are no wheels in dist/: run `make dist` first")
    failed = False
    for python in versions.PYTHONS:
        for machine in MACHINES:
            try:
                print(f"Python {python}, {machine}: {resolved(wheels, python, machine)} wheels", flush=True)
            except ReleaseError as error:
                failed = True
                print(f"Python {python}, {machine}: {str(error).strip().splitlines()[-1]}", flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
