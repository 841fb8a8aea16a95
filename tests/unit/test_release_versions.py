"""One version number, and what follows from it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.deprecated import REMOVED_IN
from release import versions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Every pyproject.toml of this repository, to be changed."""
    patterns = (
        "pyproject.toml",
        "plugins/*/pyproject.toml",
        "examples/*/pyproject.toml",
        "LICENSE",
        "plugins/*/LICENSE",
    )
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def test_all_distributions_have_one_version_and_the_plugins_require_its_minor_version() -> None:
    names = {each.name for each in versions.distributions()}
    assert {"discovery-framework", "discovery-haproxy", "discovery-tcpproxy"} <= names
    assert versions.faults() == ()


def test_a_distribution_of_another_version_or_range_is_a_fault(checkout: Path) -> None:
    path = checkout / "plugins/apache/pyproject.toml"
    text = path.read_text()
    path.write_text(re.sub(r'^version = ".*"$', 'version = "7.0.0"', text, flags=re.MULTILINE))
    (fault,) = versions.faults(checkout)
    assert fault.startswith("plugins/apache/pyproject.toml: version 7.0.0, and the core's is ")
    path.write_text(text.replace("discovery-docker>=", "discovery-docker>=0.0,<9,>="))
    assert versions.faults(checkout) == ()  # still within the range
    path.write_text(re.sub(r"discovery-docker>=[^\"]*", "discovery-docker>=0.1,<0.2", text))
    (fault,) = versions.faults(checkout)
    assert fault.startswith("plugins/apache/pyproject.toml: requires discovery-docker>=0.1,<0.2, and not ")
    path.write_text(text.replace("discovery-framework>=", "discovery-framework>"))
    assert any("does not require discovery-framework" in fault for fault in versions.faults(checkout))
    path.write_text(text.replace(":: 3.14", ":: 3.10"))
    assert versions.faults(checkout) == (
        "plugins/apache/pyproject.toml: lacks the classifier 'Programming Language :: Python :: 3.14'",
    )
    path.write_text(text)
    (checkout / "plugins/apache/LICENSE").unlink()
    (fault,) = versions.faults(checkout)
    assert "there is no LICENSE beside it" in fault


def test_every_distribution_carries_the_licence_and_the_mark_of_its_types() -> None:
    for each in versions.distributions():
        assert (each.directory / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
        (package,) = each.directory.glob("discovery*/__init__.py")
        assert package.with_name("py.typed").exists(), each.name


def test_a_new_version_is_written_everywhere_that_states_one(checkout: Path) -> None:
    before = [each.read_text() for each in sorted(checkout.rglob("pyproject.toml"))]
    present = versions.version(checkout)
    versions.set_version("4.5.6", checkout)
    assert versions.faults(checkout) == ()
    assert {each.version for each in versions.distributions(checkout)} == {"4.5.6"}
    for path in checkout.glob("examples/*/pyproject.toml"):
        assert "discovery-framework>=4.5,<4.6" in path.read_text()
    versions.set_version(present, checkout)
    assert [each.read_text() for each in sorted(checkout.rglob("pyproject.toml"))] == before


@pytest.mark.parametrize("given", ["", "1", "0.2", "0.2.0rc1", "v0.2.0", "0.2.0\n"])
def test_what_is_no_version_is_refused_and_nothing_is_written(checkout: Path, given: str) -> None:
    with pytest.raises(ValueError, match="is no version"):
        versions.set_version(given, checkout)
    assert versions.faults(checkout) == ()


@pytest.mark.parametrize("given", [[], ["1.2.3", "4.5.6"]])
def test_the_command_says_that_it_needs_one_version(given: list[str]) -> None:
    command = [sys.executable, "-m", "release.versions", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "name the one version to write: make version VERSION=0.3.0\n"
    assert versions.faults() == ()


def test_the_changelog_has_a_section_for_the_version_below_the_unreleased_one() -> None:
    sections = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[:2] == ["Unreleased", versions.version()]


def test_what_was_promised_to_go_away_is_gone_with_the_version_that_was_named() -> None:
    """Deprecated modules work for one minor version; the warnings name the version that lacks them."""
    present = tuple(map(int, versions.version().split(".")[:2]))
    assert present < tuple(map(int, REMOVED_IN.split("."))), "remove discovery/deprecated and its brother of apache"
