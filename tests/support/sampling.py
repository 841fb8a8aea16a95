"""Which of many like cases are tested in short runs; `make test-all` tests all of them."""

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

SEED = os.environ.get("DISCOVERY_TEST_SEED", "0")
"""Chooses the cases. `.ci/run` draws it anew and prints it; with the same seed the same cases are tested."""


def sampled(cases: Sequence[Any], count: int = 1) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: all `cases`, those that the seed does not choose marked `exhaustive`.

    A case is a value or a `pytest.param`.
    """
    chosen = random.Random(f"{SEED} {len(cases)} {count}").sample(range(len(cases)), count)
    return [case if number in chosen else _exhaustive(case) for number, case in enumerate(cases)]


def _exhaustive(case: Any) -> Any:
    if not isinstance(case, type(pytest.param())):
        return pytest.param(case, marks=pytest.mark.exhaustive)
    return pytest.param(*case.values, marks=[*case.marks, pytest.mark.exhaustive], id=case.id)
