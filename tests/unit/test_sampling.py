"""Cases that short runs of the tests leave out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sampling import sampled

from discovery.testing import within

TESTS = """
import pytest
from sampling import sample_parameter

@pytest.fixture(params=["old", "new"])
def version(request):
    return request.param

@pytest.mark.parametrize("number", range(3))
def test_numbers(version, number): ...

def test_version(version): ...

def test_alone(): ...

@pytest.mark.costly
@pytest.mark.parametrize("number", range(3))
def test_costly(number): ...
"""
CONFTEST = """
from sampling import sample_costly, sample_parameter

def pytest_collection_modifyitems(items):
    sample_parameter(items, "version")
    sample_costly(items)
"""


def test_a_short_run_has_so_many_of_the_cases_and_a_long_one_all() -> None:
    cases = ["a", pytest.param("b", marks=pytest.mark.faults, id="bee"), "c"]
    parameters = sampled(cases, 2)
    assert [getattr(each, "values", (each,)) for each in parameters] == [("a",), ("b",), ("c",)]
    marks = [[mark.name for mark in getattr(each, "marks", ())] for each in parameters]
    assert sum("exhaustive" in each for each in marks) == 1
    assert "faults" in marks[1]
    assert parameters[1].id == "bee"
    assert [str(each) for each in sampled(cases, 2)] == [str(each) for each in parameters]


def collected(directory: Path, seed: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-m", "not exhaustive"]
    path = str(Path(__file__).parent.parent / "support")
    environment = {**os.environ, "DISCOVERY_TEST_SEED": seed, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=within(60), check=True
    )
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.costly
def test_a_short_run_has_one_value_of_a_parameter_for_each_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  costly\n  exhaustive")
    runs = [collected(tmp_path, seed) for seed in ("0", "4")]  # which choose another value each
    for tests in runs:
        assert "test_alone" in tests
        assert sum(each.startswith("test_version") for each in tests) == 1
        numbers = [each for each in tests if each.startswith("test_numbers")]
        assert len(numbers) == 3
        assert len({"old" in each for each in numbers}) == 1
        assert sum(each.startswith("test_costly") for each in tests) in (0, 3)
    assert len({"test_costly[0]" in tests for tests in runs}) == 2
    for version in ("old", "new"):
        assert any(version in each for tests in runs for each in tests)
    assert collected(tmp_path, "0") == runs[0]
