"""Numeric constants: each says its unit and its reason, in a docstring or a comment."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [path for place in ("discovery", "plugins/*/discovery_*") for path in sorted(ROOT.glob(f"{place}/**/*.py"))]


def is_number(value: ast.expr | None) -> bool:
    match value:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float()):
            return True
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.Tuple(elts=items):
            return bool(items) and all(map(is_number, items))
    return False


def unexplained(path: Path) -> Iterator[str]:
    """Yield the numeric constants of a module without a word about them; constants in a tuple share a docstring."""
    text = path.read_text()
    lines = text.splitlines()
    statements = ast.parse(text).body
    for at, statement in enumerate(statements):
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not is_number(statement.value):
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        if isinstance(target, ast.Attribute):
            continue
        after = at + 1
        while isinstance(target, ast.Tuple) and after < len(statements) and isinstance(statements[after], ast.Assign):
            after += 1
        documented = after < len(statements) and isinstance(statements[after], ast.Expr)
        first = statement.lineno - 1
        while ": Final = " in lines[first - 1]:
            first -= 1  # a comment above a block of constants is about all of them
        if not documented and "#" not in lines[statement.lineno - 1] and not lines[first - 1].startswith("#"):
            yield f"{path}:{statement.lineno}: {lines[statement.lineno - 1]}"


def test_every_numeric_constant_says_its_unit_and_its_reason() -> None:
    assert [each for path in MODULES for each in unexplained(path)] == []
