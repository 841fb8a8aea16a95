"""The page about swapping has every proxy that the tests swap."""

import re
from pathlib import Path

from swapping import PROXIES

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_proxy_and_the_configuration_names_each() -> None:
    page = (ROOT / "docs/swapping.md").read_text()
    told = [(title, plugin) for title, plugin in re.findall(r"^\| ([^|`]+) \(`(\w+)`\) \|", page, re.MULTILINE)]
    assert told == [(proxy.title, proxy.plugin) for proxy in PROXIES]
    (line,) = re.findall(r"^plugin = .*", page, re.MULTILINE)
    assert re.findall(r'"(\w+)"', line) == [proxy.plugin for proxy in PROXIES]
