"""Imports point down, the core knows no plugin, and outside libraries stay where they belong."""

import ast
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "discovery"

# A part of the core is a room (a package) or a module right below `discovery`. It imports parts of the rows above its
# own and no others: so arrows never run up, neighbours do not know each other, and there is no cycle.
FLOORS = (
    {"model", "errors", "addresses", "descriptions", "routing"},
    {"system", "validity"},
    {"codec", "documents", "fields"},
    {"checks", "registry"},
    {"plugin"},
    {"hookspecs", "probes"},
    {"hosting"},
    {"consuming", "providing", "demo", "scaffold"},
    {"admin", "tracing"},
    {"fleet"},
    {"daemon", "testing"},
    {"library"},
    {"__init__"},
    {"cli"},
    {"commands", "toolkit", "deprecated", "__main__"},
)
# The same for the plugin with the most rooms.
HAPROXY = ROOT / "plugins/haproxy/discovery_haproxy"
HAPROXY_FLOORS = (
    {"connecting", "limits", "text"},
    {"options"},
    {"rendering"},
    {"label_routes", "program", "runtime_api"},
    {"deployment"},
    {"managed", "external", "fallback"},
    {"validation"},
    {"consumer"},
    {"__init__"},
)
# A plugin that builds on another imports the public module of that plugin, and nothing else of any plugin.
BUILDS_ON = {"discovery_apache": "discovery_docker.api"}
# Within a room: what a module never imports, though its room may.
NEVER = {
    "hosting/isolation.py": {"registry"},
    "consuming/holding.py": {"plugin", "hosting"},
    "consuming/watcher.py": {"plugin", "hosting"},
    "consuming/following.py": {"plugin", "hosting"},
    "consuming/names.py": {"registry", "codec", "validity", "plugin"},
    "consuming/runner.py": {"registry", "codec"},
    "providing/checker.py": {"registry", "hosting"},
    "providing/registrar.py": {"plugin", "hosting"},
}
PLACES = {
    "grpc": {"registry/etcd"},
    "google": {"system/protobuf.py"},
    "opentelemetry": {"tracing"},
    "watchdog": {"system/filewatch.py"},
    "typer": {"cli", "commands.py"},
    "re2": {"probes"},
    "prometheus_client": {"admin/metrics.py", "admin/server.py"},
    "jinja2": {"admin/page/rendering.py"},
    "markupsafe": {"admin/page/rendering.py"},
}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The dotted names that a module imports, also inside its functions; `from a import b` is `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def part_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def core_files() -> Iterable[Path]:
    return sorted(CORE.rglob("*.py"))


@cache
def parts() -> frozenset[str]:
    return frozenset(part_of(path) for path in core_files())


def parts_imported(path: Path) -> set[str]:
    """The other parts of the core that a module imports. What is no part is a name that `discovery` itself offers."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("discovery.")}
    return {name if name in parts() else "__init__" for name in names} - {part_of(path)}


def test_every_part_has_its_floor() -> None:
    assert sorted(part for row in FLOORS for part in row) == sorted(parts())


def test_imports_point_down() -> None:
    for path in core_files():
        (floor,) = (number for number, row in enumerate(FLOORS) if part_of(path) in row)
        assert parts_imported(path) <= set().union(*FLOORS[:floor]), path


def test_imports_of_the_haproxy_plugin_point_down() -> None:
    for path in HAPROXY.rglob("*.py"):
        room = path.relative_to(HAPROXY).parts[0].removesuffix(".py")
        (floor,) = (number for number, row in enumerate(HAPROXY_FLOORS) if room in row)
        imported = {name.split(".")[1] for name in imports(path) if name.startswith("discovery_haproxy.")}
        assert imported - {room} <= set().union(*HAPROXY_FLOORS[:floor]), path


@pytest.mark.parametrize("package", [CORE, *sorted(ROOT.glob("plugins/*/discovery_*"))], ids=lambda path: path.name)
def test_modules_import_each_other_in_no_circle(package: Path) -> None:
    """Within a room and a plugin, too, and also by imports inside functions. A CycleError names the circle."""
    modules = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", sorted(NEVER))
def test_a_module_knows_less_than_its_room(module: str) -> None:
    assert not parts_imported(CORE / module) & NEVER[module]


def test_the_ground_floor_is_the_standard_library_alone() -> None:
    ground = [path for path in core_files() if part_of(path) in FLOORS[0]]
    assert {part_of(path) for path in ground} == FLOORS[0]
    for path in ground:
        for name in imports(path):
            own = name.startswith(f"discovery.{part_of(path)}.")
            assert own or name.split(".")[0] in sys.stdlib_module_names, path


def test_the_core_imports_no_plugin() -> None:
    names = {plugin.name for plugin in ROOT.glob("plugins/*/discovery_*")}
    assert names
    for path in core_files():
        assert not {name.split(".")[0] for name in imports(path)} & names, path


def test_nothing_but_tests_needs_the_testing_kit() -> None:
    assert [path for path in core_files() if "testing" in parts_imported(path)] == []


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
def test_a_plugin_imports_no_other_plugin(plugin: Path) -> None:
    others = {other.name for other in ROOT.glob("plugins/*/discovery_*")} - {plugin.name}
    api = BUILDS_ON.get(plugin.name, "")
    for path in plugin.rglob("*.py"):
        foreign = {name for name in imports(path) if name.split(".")[0] in others}
        assert all(name.startswith(f"{api}.") for name in foreign), path
