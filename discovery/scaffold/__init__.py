"""Writes the distribution of a new plugin, complete and green, for its author to change."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from discovery.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MOST_CHARACTERS = 30
"""Characters of a name: the name is part of names of packages, directories and metrics."""


class Kind(StrEnum):
    """The kinds of plugins."""

    CONSUMER = "consumer"
    PROVIDER = "provider"
    REGISTRY = "registry"
    OBSERVER = "observer"
    COMMAND = "command"


_DESCRIPTIONS = {
    Kind.CONSUMER: "A consumer of discovery: writes the backends of every service to a file",
    Kind.PROVIDER: "A provider of discovery: registers the backends that a file lists",
    Kind.REGISTRY: "A registry of discovery: records in an SQLite file",
    Kind.OBSERVER: "An observer of discovery: logs every change of the registry",
    Kind.COMMAND: "A command of discovery: prints the addresses of a service",
}
_RECORD = "mkdir -p /tmp/registry/web; echo 10.0.0.5:8080 > /tmp/registry/web/a\n"
_USAGE = {
    Kind.CONSUMER: f"{_RECORD}discovery run --plugin $name --set $name.path=/tmp/backends.json"
    " --registry file:///tmp/registry",
    Kind.PROVIDER: "mkdir -p /tmp/registry; echo web 10.0.0.5:8080 > /tmp/list\n"
    "discovery run --plugin $name --set $name.path=/tmp/list --registry file:///tmp/registry",
    Kind.REGISTRY: "discovery register web 10.0.0.5:8080 --check none --registry $name:///tmp/records.sqlite &\n"
    "discovery services --registry $name:///tmp/records.sqlite",
    Kind.OBSERVER: f"{_RECORD}discovery run --plugin $name --registry file:///tmp/registry",
    Kind.COMMAND: f"{_RECORD}discovery $name web --registry file:///tmp/registry",
}
"""The plugin at work, without a server: the registry is a directory, or the plugin itself."""
_DEPENDENCIES = {
    Kind.CONSUMER: ("pydantic>=2.9,<3",),
    Kind.PROVIDER: ("pydantic>=2.9,<3",),
    Kind.OBSERVER: ("structlog>=24.4",),
    Kind.COMMAND: ("typer>=0.15,<1",),
}
"""What the modules of a distribution import beside the core, in the core's ranges."""
_MODULES = {Kind.REGISTRY: ("store", "lease")}
"""Modules beside `__init__`."""


def check_name(name: str, taken: Mapping[str, str]) -> None:
    """Raise ConfigError if a plugin cannot have this name. `taken` are names that are taken, and by whom."""
    if not _NAME.fullmatch(name) or len(name) > _MOST_CHARACTERS:
        raise ConfigError(
            f"{name!r} is no name for a plugin: write at most {_MOST_CHARACTERS} small letters and digits, with '-'"
            " between words"
        )
    if name in taken:
        raise ConfigError(f"the name {name!r} is taken by {taken[name]}: choose another")


def write_distribution(name: str, kind: Kind, directory: Path) -> tuple[Path, ...]:
    """Write the distribution into `directory`, which must not exist. Returns the files.

    Raises ConfigError if the directory exists, OSError if it cannot be written.
    """
    if directory.exists() or directory.is_symlink():
        raise ConfigError(f"{directory} exists: nothing is overwritten; name another with --directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        contents = distribution(name, kind)
        for path, text in contents.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text)
        made.chmod(0o755)
        made.rename(directory)
    except BaseException:  # also a KeyboardInterrupt: no half of a distribution stays
        shutil.rmtree(made, ignore_errors=True)
        raise
    return tuple(directory / path for path in contents)


def distribution(name: str, kind: Kind) -> dict[str, str]:
    """Return the files of a distribution by path."""
    package = f"discovery_{name.replace('-', '_')}"
    values = {
        "name": name,
        "package": package,
        "distribution": f"discovery-{name}",
        "description": _DESCRIPTIONS[kind],
        "entry_points": _entry_points(name, kind, package),
        "more_dependencies": "".join(f', "{each}"' for each in _DEPENDENCIES.get(kind, ())),
        **_versions(),
    }
    values["usage"] = f"```\n{Template(_USAGE[kind]).substitute(values)}\n```"
    sources = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        f"{package}/__init__.py": f"{kind}/package.py",
        **{f"{package}/{module}.py": f"{kind}/{module}.py" for module in _MODULES.get(kind, ())},
        f"tests/test_{name.replace('-', '_')}.py": f"{kind}/test.py",
    }
    templates = files("discovery.scaffold") / "templates"
    texts = {
        path: Template((templates / f"{source}.in").read_text()).substitute(values) for path, source in sources.items()
    }
    return {**texts, f"{package}/py.typed": ""}


def _entry_points(name: str, kind: Kind, package: str) -> str:
    if kind is Kind.COMMAND:
        groups = ("discovery.commands", "discovery.commands.help")
        return "\n\n".join(f'[project.entry-points."{group}"]\n{name} = "{package}:command"' for group in groups)
    return f'[project.entry-points.discovery]\n{name} = "{package}"'


def _versions() -> dict[str, str]:
    major, minor = version("discovery-framework").split(".")[:2]
    return {"version": f"{major}.{minor}", "next_version": f"{major}.{int(minor) + 1}"}
