"""Which of many like cases are tested in short runs; `make test-all` tests all of them."""

import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

SEED = os.environ.get("DISCOVERY_TEST_SEED", "0")
"""Chooses the cases. `.ci/run` draws another each time and prints it; with the same seed the same cases are tested."""


def sampled(cases: Sequence[Any], count: int = 1) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: all `cases`, those that the seed does not choose marked `exhaustive`.

    A case is a value or a `pytest.param`.
    """
    chosen = random.Random(f"{SEED} {len(cases)} {count}").sample(range(len(cases)), count)
    return [case if number in chosen else _exhaustive(case) for number, case in enumerate(cases)]


def sample_parameter(items: Iterable[pytest.Item], parameter: str) -> None:
    """Mark `exhaustive` the cases with a value of `parameter` that the seed does not choose: each test keeps one value.

    Cases of a test that differ in other parameters have the same value, so that the fixture is set up once.
    """
    tests: dict[str, dict[str, list[pytest.Function]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and parameter in item.callspec.params:
            values = tests.setdefault(f"{item.path} {item.originalname}", {})
            values.setdefault(str(item.callspec.params[parameter]), []).append(item)
    for test, values in tests.items():
        chosen = random.Random(f"{SEED} {test.rpartition('/')[2]}").choice(sorted(values))
        for value, cases in values.items():
            if value != chosen:
                for case in cases:
                    case.add_marker(pytest.mark.exhaustive)


def sample_costly(items: Iterable[pytest.Item]) -> None:
    """Mark `exhaustive` half of the tests that are marked `costly`: those that the seed does not choose."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("costly"):
            test = f"{item.path.name} {item.originalname}"
            if random.Random(f"{SEED} {test}").random() < 0.5:
                item.add_marker(pytest.mark.exhaustive)


def _exhaustive(case: Any) -> Any:
    if not isinstance(case, type(pytest.param())):
        return pytest.param(case, marks=pytest.mark.exhaustive)
    return pytest.param(*case.values, marks=[*case.marks, pytest.mark.exhaustive], id=case.id)
