"""Programs of etcd that the tests run on."""

from pathlib import Path

import pytest
from etcd_build import BUILT, build
from etcd_versions import ANOTHER, VERSIONS, find_etcd

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
