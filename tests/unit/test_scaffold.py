"""`discovery plugins new` writes distributions that are green as they are."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sampling import sampled

from discovery.errors import ConfigError
from discovery.scaffold import Kind, check_name, distribution, write_distribution

ROOT = Path(__file__).parents[2]
LONGEST = "aaaaaaaaaa-bbbbbbbbb-ccccccccc"


def run(directory: Path, *arguments: str) -> None:
    """Run a module of Python in the directory of a distribution, which is on the path.

    Whether its tests pass is the question, and not within which seconds beside all others.
    """
    environment = {"DISCOVERY_TEST_PATIENCE": "3", **os.environ, "PYTHONPATH": str(directory)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a", LONGEST])
@pytest.mark.parametrize("kind", Kind)
def test_a_new_distribution_passes_ruff(tmp_path: Path, kind: Kind, name: str) -> None:
    write_distribution(name, kind, tmp_path / "new")
    run(tmp_path / "new", "ruff", "check", "--quiet", "--no-cache", ".")
    run(tmp_path / "new", "ruff", "format", "--quiet", "--check", "--no-cache", ".")


@pytest.mark.costly
@pytest.mark.parametrize("kind", sampled(list(Kind)))
def test_the_tests_of_a_new_distribution_pass(tmp_path: Path, kind: Kind) -> None:
    write_distribution("brand-new", kind, tmp_path / "new")
    run(tmp_path / "new", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", Kind)
def test_a_new_distribution_is_typed(tmp_path: Path, kind: Kind) -> None:
    write_distribution("brand-new", kind, tmp_path / "new")
    run(tmp_path / "new", "mypy", "--strict", "--cache-dir", str(tmp_path), "discovery_brand_new", "tests")


def test_its_metadata_have_the_entry_point_and_the_range_of_the_core() -> None:
    project = tomllib.loads(distribution("mine", Kind.CONSUMER)["pyproject.toml"])["project"]
    assert project["entry-points"] == {"discovery": {"mine": "discovery_mine"}}
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    major, minor, _ = core.split(".")
    assert project["dependencies"][0] == f"discovery-framework>={major}.{minor},<{major}.{int(minor) + 1}"


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    with pytest.raises(ConfigError, match="exists: nothing is overwritten"):
        write_distribution("mine", Kind.CONSUMER, target)
    assert list(tmp_path.rglob("*")) == [target]


@pytest.mark.parametrize("name", ["", "Mine", "1st", "my_plugin", "a--b", "a-", "../x", "ä", f"{LONGEST}x", "a b"])
def test_a_name_that_would_not_work_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a plugin"):
        check_name(name, {})


def test_a_name_that_is_taken_is_refused_with_whose_it_is() -> None:
    with pytest.raises(ConfigError, match="taken by the installed discovery-haproxy"):
        check_name("haproxy", {"haproxy": "the installed discovery-haproxy"})
