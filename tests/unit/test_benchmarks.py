"""The benchmarks follow the code that they measure: `make test` runs none of them."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("[a-z]*.py")))
def test_a_benchmark_finds_what_it_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert callable(runpy.run_path(str(BENCHMARKS / name))["main"])
