"""The wheels and sdists of all distributions: built, checked, and tried in an empty environment."""

import json
from pathlib import Path

from release import commands, versions
from release.commands import ReleaseError, module, run

PROVIDED = frozenset(
    {
        *(f"provider {name}" for name in ("apache", "docker")),
        *(f"consumer {name}" for name in ("caddy", "dns", "haproxy", "httpd", "nginx", "tcpproxy", "template", "xds")),
    }
)
"""What `discovery plugins` lists where every distribution is installed."""
COMMANDS = ("ambassador", "connections", "forward", "register-container", "xds")
"""The commands of the plugins."""


def build(target: Path, root: Path = versions.ROOT, *, epoch: str) -> tuple[Path, ...]:
    """Build the sdist of each distribution, and the wheel from that sdist, and return the files. Raises ReleaseError.

    `epoch` is SOURCE_DATE_EPOCH: the time in seconds that the archives state, so that two builds are equal.
    """
    if faults := versions.faults(root):
        raise ReleaseError("\n".join(faults))
    for each in versions.distributions(root):
        module("build", "--no-isolation", "--outdir", target, each.directory, SOURCE_DATE_EPOCH=epoch)
    built = tuple(sorted([*target.glob("*.whl"), *target.glob("*.tar.gz")]))
    if len(built) != 2 * len(versions.distributions(root)):
        raise ReleaseError(f"not one sdist and one wheel of each distribution: {commands.names(built)}")
    module("twine", "check", "--strict", *built)
    return built


def wheels(target: Path) -> tuple[Path, ...]:
    """Return the wheels in `target`."""
    return tuple(sorted(target.glob("*.whl")))


def core(wheels: tuple[Path, ...]) -> Path:
    """Return the wheel of the core among `wheels`."""
    (found,) = (each for each in wheels if each.name.startswith("discovery_framework-"))
    return found


def import_all(python: Path, wheels: tuple[Path, ...]) -> str:
    """Add the extra `otel` to the environment of `python`, which has all wheels, and import every module together.

    Return what the import printed. Raises ReleaseError.
    """
    commands.install(python, f"{core(wheels)}[otel]")
    return run(python, "-I", Path(__file__).with_name("imports.py"))


def try_out(directory: Path, *discovery: str | Path, **more: str) -> str:
    """Run `discovery` from an empty directory: its version, its plugins, its commands and the demo.

    `more` are environment variables. Return what the demo printed. Raises ReleaseError.
    """
    empty = directory / "empty"
    empty.mkdir()
    stated = run(*discovery, "version", cwd=empty, **more).split()[-1]
    if stated != versions.version():
        raise ReleaseError(f"`discovery version` states {stated}, and not {versions.version()}")
    listed = json.loads(run(*discovery, "plugins", "--json", cwd=empty, **more))
    found = {what for each in listed if not each["error"] for what in each["provides"]}
    if missing := PROVIDED - found:
        raise ReleaseError(f"missing or broken: {', '.join(sorted(missing))}")
    for command in COMMANDS:
        run(*discovery, "help", *command.split(), cwd=empty, **more)
    said = run(*discovery, "demo", "--exit", cwd=empty, **more)
    if " requests during the move, 0 failed: " not in said:
        raise ReleaseError(f"the demo is not green:\n{said}")
    if left := sorted(empty.iterdir()):
        raise ReleaseError(f"the demo has left files: {commands.names(left)}")
    return said
