"""The rules for test files in CONTRIBUTING.md: length, the form of a coroutine test, typed parameters, and skips."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [path for place in ("tests", "plugins/*/tests") for path in sorted(ROOT.glob(f"{place}/**/*.py"))]
MOST_LINES = 400
"""A longer file has several subjects; its first line may give the reason for an exception, "over 400 lines: ..."."""
SYNCHRONOUS = {
    "test_of_two_writes_at_once_the_later_one_stands": "the end of the loop awaits threads",
    "test_a_put_that_was_given_up_writes_nothing_after_the_lease_was_closed": "the end of the loop awaits threads",
    "test_signals_that_come_together_are_one_request_and_a_later_one_is_left_to_the_system": "signals around a loop",
    "test_no_signal_is_the_event_loops_which_shows_a_traceback_while_it_closes": "a signal after the end of the loop",
}
"""Tests with an inner coroutine that cannot be `async def`, and the reasons."""


def runs_an_inner_coroutine(test: ast.FunctionDef) -> bool:
    inner = {node.name for node in ast.walk(test) if isinstance(node, ast.AsyncFunctionDef)}
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "asyncio.run"
        and isinstance(node.args[0], ast.Call)
        and ast.unparse(node.args[0].func) in inner
        for node in ast.walk(test)
    )


def test_every_file_is_short_and_its_coroutine_tests_are_async() -> None:
    for path in FILES:
        text = path.read_text()
        lines = text.splitlines()
        assert len(lines) <= MOST_LINES or f"over {MOST_LINES} lines: " in lines[0], path
        if "asyncio.run" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and node.name not in SYNCHRONOUS:
                is_property = any("given(" in ast.unparse(decorator) for decorator in node.decorator_list)
                assert is_property or not runs_an_inner_coroutine(node), f"{path}: {node.name}"


def test_every_parameter_has_a_type() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                untyped = [each.arg for each in parameters if each and not each.annotation]
                assert set(untyped) <= {"self", "cls"}, f"{path}, line {node.lineno}, {node.name}: {untyped}"


def test_no_test_skips_itself_where_it_has_to_fail_in_ci() -> None:
    itself = Path(__file__)
    for path in FILES:
        if path not in (itself, itself.with_name("test_skipping.py")):
            assert not re.search(r"pytest\.skip\(|\bskipif\(", path.read_text()), f"{path}: use cannot_run"
