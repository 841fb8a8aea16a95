"""The public modules: what they offer, what plugins import, and what loading them costs."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = (
    "discovery",
    "discovery.addresses",
    "discovery.commands",
    "discovery.fields",
    "discovery.probes",
    "discovery.registry",
    "discovery.routing",
    "discovery.testing",
    "discovery.toolkit",
)
LAZY = ("discovery", "discovery.toolkit")
HEAVY = ("grpc", "typer", "pydantic", "structlog", "watchdog", "urllib.request", "aiohttp", "asyncio")

PLUGINS = sorted((ROOT / "plugins").glob("*/discovery_*/**/*.py"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
TESTS = sorted((ROOT / "plugins").glob("*/tests/**/*.py"))
MORE_FOR_TESTS = {
    "discovery.system.embedded": "an etcd of the test's own, and programs that wheels carry",
    "discovery.system.kernel": "the end of a process, seen without an event loop",
    "discovery.system.lookups": "the lookup that the daemon gives to probes",
    "discovery.providing.runner": "the provider as the daemon runs it",
    "discovery.daemon.config": "the configuration as the daemon reads it",
    "discovery.hosting.tables": "the table of an instance as the daemon reads it",
    "discovery.daemon.faults": "the message that a user gets for an option",
    "discovery.cli": "the command line",
}
"""Private modules that the plugins' tests import, and the reason."""
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "plugins").glob("*/README.md")])


def imported(text: str) -> Iterator[tuple[str, str]]:
    """The modules of the core that a program imports, and the names it imports from each (empty: the module)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "discovery":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "discovery")


def private_imports(text: str) -> list[str]:
    """What a program imports of the core and may not: neither a public module nor a public name of one."""
    return [
        f"{module} {name}".strip()
        for module, name in imported(text)
        if f"{module}.{name}" not in PUBLIC
        and (module not in PUBLIC or (name and name not in import_module(module).__all__))
    ]


def test_a_plugin_imports_the_public_api_alone() -> None:
    assert faults({path: private_imports(path.read_text()) for path in (*PLUGINS, *EXAMPLES)}) == {}


def test_the_test_of_a_plugin_imports_little_more() -> None:
    private = {path: private_imports(path.read_text()) for path in TESTS}
    more = {path: [name for name in names if name.split()[0] not in MORE_FOR_TESTS] for path, names in private.items()}
    assert faults(more) == {}


def test_programs_in_the_documentation_import_the_public_api_alone() -> None:
    block = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    programs = {path: block.findall(path.read_text()) for path in PAGES}
    assert any(programs.values())
    assert faults({path: [private_imports(each) for each in found] for path, found in programs.items()}) == {}


def faults(found: Mapping[Path, list[Any]]) -> dict[str, list[Any]]:
    """The files with something in their lists. One test of all files takes less time than a test of each."""
    return {path.relative_to(ROOT).as_posix(): kept for path, each in found.items() if (kept := [*filter(None, each)])}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_documentation_lists_every_public_name(module: str) -> None:
    page = (ROOT / "docs/plugins.md").read_text()
    section = page.partition(f"\n## `{module}`\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)) == sorted(import_module(module).__all__)


@pytest.mark.parametrize("module", LAZY)
def test_a_lazy_module_offers_what_type_checkers_see(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    (block,) = (node for node in ast.parse(source.read_text()).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    facade = import_module(module)
    assert sorted(seen) == sorted(facade.__all__)
    for name, home in seen.items():
        assert getattr(facade, name) is getattr(import_module(str(home)), name)
    with pytest.raises(AttributeError):
        _ = facade.no_such_name


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("module", LAZY)
def test_a_lazy_module_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "module", ["discovery.addresses", "discovery.fields", "discovery.registry", "discovery.routing"]
)
def test_a_public_module_without_plugins_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_commands_load_neither_the_daemon_nor_the_client_of_etcd() -> None:
    loaded = loaded_by("import discovery.commands")
    assert loaded.isdisjoint({"grpc", "pydantic", "structlog", "watchdog", "aiohttp", "discovery.daemon.daemon"})


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("write_atomically", set()),
        ("child_environment", set()),
        ("delays", set()),
        ("printable", set()),
        ("binds_conflict", set()),
        ("memfd_create", set()),
        ("read_certificate", set()),
        ("ProcessHandle", {"asyncio"}),
        ("Names", {"asyncio"}),
        ("Lookup", {"asyncio"}),
        ("FileWatch", {"watchdog"}),
    ],
)
def test_a_tool_loads_what_it_needs_itself(name: str, needs: set[str]) -> None:
    assert loaded_by(f"from discovery.toolkit import {name}") & set(HEAVY) == needs


def described(owner: str, thing: Any, beside: str = "") -> Iterator[str]:
    """What the docstrings of a public class or function lack: a text, or an argument's name in it."""
    text = thing.__doc__ or ""
    if not text.strip() or text.startswith(f"{owner.rpartition('.')[2]}("):  # made by dataclasses
        yield f"{owner}: no docstring"
    if inspect.isclass(thing):
        for name, attribute in vars(thing).items():
            member = getattr(attribute, "__func__", attribute)  # of a class method
            if isinstance(member, property):
                if not member.__doc__:
                    yield f"{owner}.{name}: no docstring"
            elif name == "__init__" and getattr(thing, "_is_protocol", False):
                continue  # made by typing
            elif inspect.isfunction(member) and (name == "__init__" or not name.startswith(("_", "test_"))):
                if dataclasses.is_dataclass(thing) and name == "__init__":
                    source = inspect.getsource(thing)
                    for field in dataclasses.fields(thing):
                        alone = re.search(rf'^    {field.name}: .*\n    """', source, re.MULTILINE)
                        if field.init and not alone and not re.search(rf"\b{field.name}\b", text):
                            yield f"{owner}: the field {field.name} is not described"
                else:
                    yield from described(f"{owner}.{name}", member, text if name == "__init__" else "")
    elif callable(thing):
        for name in inspect.signature(thing).parameters:
            if name != "self" and name != "cls" and not re.search(rf"\b{name}\b", text + beside):
                yield f"{owner}: the argument {name} is not described"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_and_argument_is_described(module: str) -> None:
    there = import_module(module)
    own = [(name, getattr(there, name)) for name in there.__all__]
    things = [(name, thing) for name, thing in own if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert [fault for name, thing in things for fault in described(f"{module}.{name}", thing)] == []
