"""What the documents say of the code is so."""

import re
from pathlib import Path

import pytest

from discovery.daemon.config import load_settings
from discovery.daemon.instances import build
from discovery.daemon.settings import FileSettings

ROOT = Path(__file__).parents[2]


def test_every_part_of_the_core_is_in_the_house() -> None:
    house = (ROOT / "docs/architecture.md").read_text().partition("## The house")[2].partition("```\n")[2]
    told = set(re.findall(r"^  ([a-z_]+(?:\.py|/)) ", house.partition("```")[0], re.MULTILINE))
    there = {path.name + "/" * path.is_dir() for path in (ROOT / "discovery").glob("[a-z]*")}
    assert told == there - {"py.typed"}


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/ambassador.md",
        "docs/checks.md",
        "docs/fleet.md",
        "docs/swapping.md",
        *(
            f"docs/coming-from/{name}.md"
            for name in ("confd", "consul-template", "easyhaproxy", "registrator", "traefik")
        ),
        *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("plugins/*/README.md"))),
    ],
)
def test_configurations_in_the_documents_are_valid(path: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        file = tmp_path / "discovery.toml"
        file.write_text(block if "plugin =" in block else _with_a_plugin(block))
        assert build(load_settings(file)).usable


def _with_a_plugin(block: str) -> str:
    """A block of the core's keys before a consumer; one of a plugin's keys below it."""
    core = re.match(r"(?:#.*\n|\n)*(\w+) =", block)
    consumer = '[consumers.edge]\nplugin = "haproxy"\n'
    return f"{block}\n{consumer}" if core and core[1] in FileSettings.model_fields else consumer + block


def test_the_walk_through_a_change_names_files_tests_and_code_that_exist() -> None:
    walk = (ROOT / "CONTRIBUTING.md").read_text().partition("## One change, from start to end")[2].partition("\n## ")[0]
    tree, *blocks = re.findall(r"```\w*\n(.*?)```", walk, re.DOTALL)
    directories, named = list[str](), set[Path]()
    for indent, name in re.findall(r"^( *)([\w./]+)", tree, re.MULTILINE):
        directories[len(indent) // 2 :] = [name]
        named.add(ROOT.joinpath(*directories))
    assert {path for path in named if not path.exists()} == set()
    files = {path.name: path for path in named}
    texts = [path.read_text() for path in (ROOT / "plugins/haproxy").rglob("*") if path.suffix in (".py", ".j2")]
    for block in blocks:
        if block.startswith(("make ", "mkdir ")):
            continue
        assert any(block.strip() in text or _flat(block) in _flat(text) for text in texts), block
    for name in re.findall(r"`([\w./]+\.(?:py|j2))`", walk):
        ends = [path for path in (ROOT / "plugins/haproxy").rglob("*") if str(path).endswith(f"/{name}")]
        assert name in files or ends, name


def _flat(text: str) -> str:
    return "".join(text.split())
