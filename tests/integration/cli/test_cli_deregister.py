"""Point 17: `discovery deregister` removes a record of the same owner, and one of another owner only by force."""

import json
import os
import signal
from pathlib import Path

import pytest
import warm

from discovery.testing import within

from .conftest import Start, World


def deregister(start: Start, world: World, *arguments: str) -> tuple[int, str]:
    command = start("deregister", *arguments, "--registry", world.url)
    return command.end(), command.stderr


def ids(world: World) -> list[str]:
    listing = warm.run("services", "--json", "--registry", world.url, env=os.environ, timeout=within(100))
    assert listing.returncode == 0, listing.stderr
    told = json.loads(listing.stdout)
    return [each["id"] for each in told["services"].get("web", [])] + [each["key"] for each in told["rejected"]]


def test_what_a_crashed_register_has_left_is_removed_at_once(start: Start, world: World) -> None:
    crashed = start("register", "web", "127.0.0.1:1", "--ttl", "600", "--registry", world.url)
    crashed.line()
    crashed.stop(signal.SIGKILL)
    assert ids(world) == ["127.0.0.1:1"]
    command = start("deregister", "web", "127.0.0.1:1", "--registry", world.url)
    assert command.line() == "deregistered web/127.0.0.1:1"
    assert (command.end(), command.stderr) == (0, "")
    assert ids(world) == []


def test_one_that_is_being_registered_here_is_named(start: Start, world: World) -> None:
    running = start("register", "web", "127.0.0.1:1", "--id", "x", "--registry", world.url)
    running.line()
    code, stderr = deregister(start, world, "web", "x")
    assert (code, stderr.count("\n")) == (1, 1)
    assert f"discovery register web/x is already running as process {running.process.pid}" in stderr
    assert "stop it, which withdraws the record" in stderr
    assert ids(world) == ["x"]


def test_another_owners_record_is_refused_unless_forced(start: Start, world: World, tmp_path: Path) -> None:
    options = ("--id", "x", "--owner", "other", "--ttl", "600")
    other = start("register", "web", "127.0.0.1:1", *options, "--registry", world.url)
    other.line()
    elsewhere = ("--run-dir", str(tmp_path / "elsewhere"))
    code, stderr = deregister(start, world, "web", "x", *elsewhere)
    assert (code, stderr.count("\n")) == (1, 1)
    assert "the record 'web/x' belongs to 'other': stop that, or add --force" in stderr
    assert ids(world) == ["x"]
    other.stop(signal.SIGKILL)
    code, stderr = deregister(start, world, "web", "x", "--force", *elsewhere)
    assert (code, stderr) == (0, "discovery: 'other' registers it again if it still runs\n")
    assert ids(world) == []


def test_the_owner_may_be_named(start: Start, world: World) -> None:
    other = start("register", "web", "127.0.0.1:1", "--id", "x", "--owner", "me", "--ttl", "600", "-r", world.url)
    other.line()
    other.stop(signal.SIGKILL)
    assert deregister(start, world, "web", "x", "--owner", "someone")[0] == 1
    assert deregister(start, world, "web", "x", "--owner", "me") == (0, "")
    assert ids(world) == []


@pytest.mark.parametrize("value", ["10.0.0.1:80", "nonsense"])
def test_a_record_written_by_hand_takes_force(start: Start, world: World, value: str) -> None:
    world.put("web/b1", value)
    code, stderr = deregister(start, world, "web", "b1")
    assert (code, stderr.count("\n")) == (1, 1)
    assert "the record 'web/b1' has no owner (written by hand?): add --force to remove it" in stderr
    assert deregister(start, world, "web", "b1", "--force") == (0, "")
    assert ids(world) == []


def test_a_record_that_is_not_there_is_an_error_that_names_the_registry(start: Start, file_world: World) -> None:
    code, stderr = deregister(start, file_world, "web", "b1")
    assert (code, stderr) == (1, f"discovery: there is no record 'web/b1' in {file_world.url}\n")
    code, stderr = deregister(start, file_world, "web", "b 1")
    assert (code, stderr.count("\n")) == (2, 1)
