"""TemplateCache templates: kept where Python keeps its modules, used while nothing has changed, and never needed."""

import os
import subprocess
import sys
from pathlib import Path

from discovery_haproxy.rendering.template_cache import TemplateCache

PROGRAM = """
import sys
from jinja2 import Environment
from discovery.model import Snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render

sys.pycache_prefix = sys.argv[1]  # from now on: the modules above have byte code elsewhere
compiled = []
compile_ = Environment.compile
Environment.compile = lambda self, source, name, filename: (
    compiled.append(name), compile_(self, source, name, filename)
)[1]
config = HAProxyConfig.model_validate({"template": TEMPLATE})
print(render(config, Snapshot.of(1, []), Runtime(), {}).generation, *compiled)
"""


def rendered(place: Path, template: Path | None = None, **environment: str) -> list[str]:
    """In a new process: the generation, and the templates that were compiled."""
    program = PROGRAM.replace("TEMPLATE", repr(template and str(template)))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def kept(place: Path) -> list[Path]:
    """The files of compiled templates."""
    return [path for path in place.rglob("*.pyc") if path.parent.name == "templates"]


def test_built_in_templates_are_compiled_once(tmp_path: Path) -> None:
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


def test_a_damaged_or_mixed_up_cache_is_recompiled(tmp_path: Path) -> None:
    generation, *compiled = rendered(tmp_path)
    for damage in (b"", kept(tmp_path)[0].read_bytes()[:30], b"\0" * 1000):
        for path in kept(tmp_path):
            path.write_bytes(damage)
        assert rendered(tmp_path) == [generation, *compiled]
    one, other = kept(tmp_path)
    other.write_bytes(one.read_bytes())
    assert len(rendered(tmp_path)) == 2


def test_no_template_is_cached_in_an_unwritable_or_disabled_cache_and_no_users_template_ever(tmp_path: Path) -> None:
    place, file = tmp_path / "place", tmp_path / "file"
    file.touch()
    assert len(rendered(file)) == 3
    assert len(rendered(place, PYTHONDONTWRITEBYTECODE="1")) == 3
    assert not kept(place)
    own = tmp_path / "own.cfg.j2"
    own.write_text("{% include 'builtin/haproxy.cfg.j2' %}")
    for _ in range(2):
        assert "own.cfg.j2" in rendered(place, own)
    assert len(kept(place)) == 2
