"""Handlers of every exception: each says why, and none keeps a cancellation or a KeyboardInterrupt by mistake."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [path for place in ("discovery", "plugins/*/discovery_*") for path in sorted(ROOT.glob(f"{place}/**/*.py"))]


def test_a_handler_of_every_exception_says_why() -> None:
    """BaseException includes the end of the program and a cancellation: a comment beside the handler has the reason."""
    handlers = 0
    for path in MODULES:
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "BaseException"):
                handlers += 1
                comment = re.sub(r"noqa: *[A-Z]+\d+", "", lines[node.lineno - 1].partition("#")[2])
                assert len(comment.split()) >= 3, f"{path}:{node.lineno}: no reason"
    assert handlers > 20
