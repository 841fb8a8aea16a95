"""Imports point down, the core knows no plugin, and outside libraries stay where they belong."""

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "discovery"

# A part may reach the rows above its own, directly or through others; parts named nowhere are free between them.
LAYERS = (
    {"model", "errors"},
    {"codec", "plugin", "registry"},
    {"checker", "isolation", "names"},
    {"resolving", "watcher", "runner", "provider_runner", "registrar"},
    {"plugins", "config", "following", "providing"},
    {"daemon"},
    {"cli"},
)
NEVER = {
    "isolation": {"registry", "codec"},
    "checker": {"registry", "isolation"},
    "watcher": {"plugin", "runner", "provider_runner", "registrar"},
    "runner": {"registry", "codec", "watcher", "checker", "provider_runner"},
    "provider_runner": {"registry", "watcher", "runner", "registrar"},
    "registrar": {"runner", "provider_runner", "watcher", "plugin"},
    "names": {"registry", "codec", "plugin"},
    "resolving": {"registry", "runner", "watcher", "following"},
    "following": {"resolving", "runner", "provider_runner", "registrar"},
    "providing": {"runner", "watcher"},
}
PLACES = {
    "grpc": {"registry/etcd"},
    "google": {"registry/etcd"},
    "watchdog": {"filewatch.py"},
    "typer": {"cli", "commands.py"},
    "re2": {"probes"},
    "prometheus_client": {"metrics.py", "admin.py"},
}


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, also inside its functions; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def core_files() -> Iterable[Path]:
    return sorted(CORE.rglob("*.py"))


@cache
def parts() -> dict[str, set[str]]:
    """Each part of the core (a module or package right below `discovery`), and those that it imports."""
    graph: dict[str, set[str]] = {part_of(path): set() for path in core_files()}
    for path in core_files():
        for name in imports(path):
            if name.startswith("discovery."):
                # What is no part is a name that `discovery` itself offers.
                part = name.split(".")[1]
                graph[part_of(path)].add(part if part in graph else "__init__")
        graph[part_of(path)].discard(part_of(path))
    return graph


def reached(part: str) -> set[str]:
    found: set[str] = set()
    todo = [part]
    while todo:
        new = parts()[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_the_core_is_there() -> None:
    assert set.union(*LAYERS) <= parts().keys()
    assert reached("cli") >= {"daemon", "registry", "model"}


@pytest.mark.parametrize(
    ("low", "high"),
    [pair for n, row in enumerate(LAYERS) for pair in product(sorted(row), sorted(set().union(*LAYERS[n + 1 :])))],
)
def test_imports_point_down(low: str, high: str) -> None:
    assert high not in reached(low)


def test_imports_make_no_circle() -> None:
    assert [part for part in parts() if part in reached(part)] == []


@pytest.mark.parametrize("part", sorted(NEVER))
def test_neighbours_do_not_know_each_other(part: str) -> None:
    assert not reached(part) & NEVER[part]


def test_the_ground_floor_is_the_standard_library_alone() -> None:
    for part in LAYERS[0]:
        for name in imports(CORE / f"{part}.py"):
            assert name.split(".")[0] in sys.stdlib_module_names


def test_the_core_imports_no_plugin() -> None:
    names = {plugin.name for plugin in ROOT.glob("plugins/*/discovery_*")}
    assert names
    for path in core_files():
        assert not {name.split(".")[0] for name in imports(path)} & names, path


def test_nothing_but_tests_needs_the_testing_kit() -> None:
    assert [part for part, needs in parts().items() if "testing" in needs] == []


@pytest.mark.parametrize("library", sorted(PLACES))
def test_a_library_stays_where_it_belongs(library: str) -> None:
    users = {
        path.relative_to(CORE).as_posix()
        for path in core_files()
        if library in {n.split(".")[0] for n in imports(path)}
    }
    assert users
    assert [
        user for user in users if not any(user == place or user.startswith(f"{place}/") for place in PLACES[library])
    ] == []


@pytest.mark.parametrize("plugin", sorted(ROOT.glob("plugins/*/discovery_*")), ids=lambda path: path.name)
def test_a_plugin_imports_what_a_third_party_may(plugin: Path) -> None:
    forbidden = {"isolation", "runner", "provider_runner", "checker", "watcher", "registrar"}
    forbidden |= {"plugins", "config", "daemon", "cli", "admin", "demo"}
    others = {other.name for other in ROOT.glob("plugins/*/discovery_*")} - {plugin.name}
    for path in plugin.rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in others, path
            assert not (name.startswith("discovery.") and name.split(".")[1] in forbidden), path
