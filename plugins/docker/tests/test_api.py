"""The public module of the plugin, for plugins that build on it."""

import re
from pathlib import Path

from discovery_docker import api

README = Path(__file__).parents[1] / "README.md"


def test_the_page_lists_every_public_name() -> None:
    section = README.read_text().partition("\n## Building on this plugin\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+`) \|", section, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(api.__all__)
