"""TemplateCache templates: kept where Python keeps its modules, used while nothing has changed, and never needed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from discovery_haproxy.rendering.template_cache import TemplateCache

PROGRAM = """
import json, os, sys
from jinja2 import Environment
from discovery.model import Snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render

compiled = []
compile_ = Environment.compile
Environment.compile = lambda self, source, name, filename: (
    compiled.append(name), compile_(self, source, name, filename)
)[1]
for line in sys.stdin:
    if os.fork():
        if os.wait()[1]:
            print("failed", flush=True)
        continue
    # From now on: the modules above have byte code elsewhere.
    sys.pycache_prefix, sys.dont_write_bytecode, template = json.loads(line)
    created = []
    def hear(event, args):
        if event == "open" and args[2] & os.O_CREAT and not isinstance(args[0], int):
            created.append(os.fspath(args[0]))

    sys.addaudithook(hear)
    config = HAProxyConfig.model_validate({"template": template})
    generation = render(config, Snapshot.of(1, []), Runtime(), {}).generation
    # By its path a recorder of writes, as that of the contract of consumers, tells a cache from a state.
    assert all(each.startswith(sys.pycache_prefix) for each in created), created
    print(generation, *compiled, flush=True)
    os._exit(0)
"""
"""Renders in a new process for each line. The processes are forked once the modules are loaded, which takes longest."""


class Rendered(Protocol):
    """Render in a new process; return the generation and the templates that were compiled."""

    def __call__(self, place: Path, template: Path | None = None, *, keeps: bool = True) -> list[str]: ...


@pytest.fixture(scope="module")
def rendered() -> Iterator[Rendered]:
    """Return a function that renders with compiled templates in `place`, which are not written without `keeps`."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asking, answers = process.stdin, process.stdout
        assert asking is not None
        assert answers is not None

        def rendered(place: Path, template: Path | None = None, *, keeps: bool = True) -> list[str]:
            asking.write(json.dumps([str(place), not keeps, template and str(template)]) + "\n")
            asking.flush()
            return answers.readline().split()

        yield rendered
        asking.close()


def kept(place: Path) -> list[Path]:
    """The files of compiled templates."""
    return [path for path in place.rglob("*.pyc") if path.parent.name == "templates"]


def test_built_in_templates_are_compiled_once(tmp_path: Path, rendered: Rendered) -> None:
    generation, *compiled = rendered(tmp_path)
    assert sorted(compiled) == ["haproxy.cfg.j2", "head.cfg.j2"]
    assert rendered(tmp_path) == [generation]
    assert {path.stat().st_mode & 0o777 for path in kept(tmp_path)} == {0o644}


def test_a_template_of_another_compiler_is_recompiled(tmp_path: Path) -> None:
    by = tmp_path / "render.py"
    by.write_text("one")
    checksum = TemplateCache(tmp_path, str(by)).get_source_checksum("source")
    assert TemplateCache(tmp_path, str(by)).get_source_checksum("source") == checksum
    by.write_text("another")
    assert TemplateCache(tmp_path, str(by)).get_source_checksum("source") != checksum


def test_no_template_is_cached_if_the_compiler_has_no_file(tmp_path: Path) -> None:
    """Point: a single executable with Python inside has no module files."""
    assert TemplateCache(tmp_path, str(tmp_path / "render.py")).get_cache_key("x", str(tmp_path / "x.j2")) == ""


def test_a_damaged_or_mixed_up_cache_is_recompiled(tmp_path: Path, rendered: Rendered) -> None:
    generation, *compiled = rendered(tmp_path)
    for damage in (b"", kept(tmp_path)[0].read_bytes()[:30], b"\0" * 1000):
        for path in kept(tmp_path):
            path.write_bytes(damage)
        assert rendered(tmp_path) == [generation, *compiled]
    one, other = kept(tmp_path)
    other.write_bytes(one.read_bytes())
    assert len(rendered(tmp_path)) == 2


@pytest.mark.costly
def test_no_template_is_cached_in_an_unwritable_or_disabled_cache_and_no_users_template_ever(
    tmp_path: Path, rendered: Rendered
) -> None:
    place, file = tmp_path / "place", tmp_path / "file"
    file.touch()
    assert len(rendered(file)) == 3
    assert len(rendered(place, keeps=False)) == 3
    assert not kept(place)
    own = tmp_path / "own.cfg.j2"
    own.write_text("{% include 'builtin/haproxy.cfg.j2' %}")
    for _ in range(2):
        assert "own.cfg.j2" in rendered(place, own)
    assert len(kept(place)) == 2
