"""The index of the examples is complete."""

import re

from haproxy_example import EXAMPLES


def test_the_index_lists_every_example() -> None:
    listed = re.findall(r"\]\(([a-z-]+\.toml)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.toml"))
