"""The memory of refused configurations, which outlives the daemon, and not the machine's run."""

import json
from pathlib import Path

import pytest

from discovery_haproxy.deployment.checking import NoChecker
from discovery_haproxy.deployment.refusals import Attempt, Refusals
from discovery_haproxy.deployment.target import RefusedError


def attempt(*missed: str, text: str = "frontend web\n") -> Attempt:
    return Attempt.of(text, {Path("/a"): "digest"}, NoChecker(), missed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "refused.json"


@pytest.fixture
def before(path: Path) -> Refusals:
    """Return the memory of a daemon that HAProxy has refused one configuration."""
    refusals = Refusals(path)
    error = RefusedError("cannot bind")
    error.alerts = ("line 1",)
    refusals.add(attempt("a:1", "b:2", "c:3"), error)
    return refusals


def test_the_next_daemon_knows_the_same_attempt_and_no_other(before: Refusals, path: Path) -> None:
    after = Refusals(path)
    with pytest.raises(RefusedError, match="cannot bind; the same is not tried again") as caught:
        after.check(attempt("c:3", "a:1", "b:2"))
    assert caught.value.alerts == ("line 1",)
    after.check(attempt("a:1", "b:2"))
    after.check(attempt("a:1", "b:2", "c:3", text="frontend other\n"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_forgotten_is_not_known_to_the_next_daemon(before: Refusals, path: Path) -> None:
    assert before
    before.clear()
    assert not before
    assert not Refusals(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot": 1}', '{"refused": []}', "null"])
def test_a_damaged_file_counts_as_missing(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    assert not Refusals(path)


def test_a_start_of_the_machine_forgets(before: Refusals, path: Path) -> None:
    assert before
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert not Refusals(path)
