"""The one version of all distributions: checked, and set by `python -m release.versions VERSION`.

Every pyproject.toml states its version as text, because an sdist of a plugin contains no file of the core from which it
could read the version. The version in the root's pyproject.toml is the one that counts.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python that every distribution states."""
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_STATED = re.compile(r'^version = "[^"]*"$', re.MULTILINE)
_RANGE = re.compile(r'"(discovery-[a-z]+)>=\d+\.\d+,<\d+\.\d+"')


class Distribution(NamedTuple):
    """A distribution of this repository."""

    path: Path
    """The file pyproject.toml."""
    name: str
    version: str
    dependencies: tuple[str, ...]
    classifiers: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """The directory that is built."""
        return self.path.parent


def distributions(root: Path = ROOT) -> tuple[Distribution, ...]:
    """Return the core, and then the plugins by name."""
    return tuple(map(_read, (root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml")))))


def version(root: Path = ROOT) -> str:
    """Return the version that counts: the core's."""
    return _read(root / "pyproject.toml").version


def compatible(version: str) -> str:
    """Return the range of versions of the core that a plugin of `version` supports: its minor version."""
    major, minor = _parts(version)[:2]
    return f">={major}.{minor},<{major}.{minor + 1}"


def faults(root: Path = ROOT) -> tuple[str, ...]:
    """Return what contradicts the one version, each with the file's name and the way out."""
    return tuple(_faults(root))


def set_version(version: str, root: Path = ROOT) -> None:
    """Write `version`, and the range that goes with it, into each pyproject.toml. Raises ValueError.

    The plugins in `examples/` keep their own versions and get the range.
    """
    _parts(version)
    for path in [each.path for each in distributions(root)]:
        path.write_text(_with_range(_STATED.sub(f'version = "{version}"', path.read_text(), count=1), version))
    for path in root.glob("examples/*/pyproject.toml"):
        path.write_text(_with_range(path.read_text(), version))


def _faults(root: Path) -> Iterator[str]:
    core, *plugins = distributions(root)
    wanted = f"discovery-framework{compatible(core.version)}"
    for each in plugins:
        name = each.path.relative_to(root)
        if each.version != core.version:
            yield f"{name}: version {each.version}, and the core's is {core.version}: run `make version`"
        own = {need for need in each.dependencies if need.startswith("discovery-")}
        if wanted not in own:
            yield f"{name}: does not require {wanted}: run `make version`"
        for need in sorted(own):
            if not need.endswith(compatible(core.version)):
                yield f"{name}: requires {need}, and not {compatible(core.version)}: run `make version`"
    for each in (core, *plugins):
        for python in PYTHONS:
            if (classifier := f"Programming Language :: Python :: {python}") not in each.classifiers:
                yield f"{each.path.relative_to(root)}: lacks the classifier {classifier!r}"
        if not (each.directory / "LICENSE").is_file():
            yield f"{each.path.relative_to(root)}: there is no LICENSE beside it: copy the core's"


def _with_range(text: str, version: str) -> str:
    return _RANGE.sub(lambda found: f'"{found[1]}{compatible(version)}"', text)


def _read(path: Path) -> Distribution:
    project = tomllib.loads(path.read_text())["project"]
    return Distribution(
        path, project["name"], project["version"], tuple(project["dependencies"]), tuple(project.get("classifiers", ()))
    )


def _parts(version: str) -> tuple[int, int, int]:
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no version: write three numbers, as in 0.2.0")
    return int(found[1]), int(found[2]), int(found[3])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the one version to write: make version VERSION=0.3.0")
    given = sys.argv[1]
    try:
        set_version(given)
    except ValueError as error:
        sys.exit(f"{error}; usage: make version VERSION=0.3.0")
    print(*faults() or [f"all distributions: {given}"], sep="\n")
