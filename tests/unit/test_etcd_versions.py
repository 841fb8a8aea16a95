"""Point 1: which etcd the tests run on, and which of many like cases."""

from pathlib import Path

import pytest
from etcd_build import BUILT, build
from etcd_versions import ANOTHER, VERSIONS, find_etcd
from sampling import sampled

from discovery.errors import ConfigError


def program(path: Path, version: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    path.chmod(0o755)
    return path


def test_a_program_on_path_is_found_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = program(tmp_path / "other" / "etcd", "3.40.1")
    found = program(tmp_path / "found" / "etcd", "3.4.99")
    monkeypatch.setenv("PATH", f"{other.parent}:{found.parent}")
    assert find_etcd("3.4") == found
    with pytest.raises(ConfigError, match=r"no etcd 3\.3"):
        find_etcd("3.3")


def test_the_one_that_was_built_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ANOTHER, raising=False)
    with pytest.raises(ConfigError, match="make etcd"):
        build()
    built = program(tmp_path / "cache" / "discovery" / f"etcd-{BUILT}", BUILT)
    assert find_etcd(VERSIONS[0]) == built


def test_another_is_used_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ANOTHER, str(tmp_path / "etcd"))
    with pytest.raises(ConfigError, match="is not a program"):
        find_etcd(VERSIONS[0])
    other = program(tmp_path / "etcd")
    assert find_etcd(VERSIONS[0]) == other


def test_a_short_run_has_so_many_of_the_cases_and_a_long_one_all() -> None:
    cases = ["a", pytest.param("b", marks=pytest.mark.faults, id="bee"), "c"]
    parameters = sampled(cases, 2)
    assert [getattr(each, "values", (each,)) for each in parameters] == [("a",), ("b",), ("c",)]
    marks = [[mark.name for mark in getattr(each, "marks", ())] for each in parameters]
    assert sum("exhaustive" in each for each in marks) == 1
    assert "faults" in marks[1]
    assert parameters[1].id == "bee"
    assert [str(each) for each in sampled(cases, 2)] == [str(each) for each in parameters]
