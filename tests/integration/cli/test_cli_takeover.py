"""Issue 12, C.1: a key moves to a command that asks for it; the record is there throughout."""

import signal
import sys
from pathlib import Path

from discovery.testing import eventually_sync

from .conftest import END, Start, World


def arguments(world: World, owner: str, run_dir: Path, *more: str, port: int = 1) -> list[str]:
    key = ["web", f"127.0.0.1:{port}", "--id", "x", "--owner", owner, "--run-dir", str(run_dir / owner)]
    return ["register", *key, "--ttl", "60", "--registry", world.url, *more]


def test_the_owner_hands_its_key_over_names_the_new_owner_and_ends(start: Start, world: World, tmp_path: Path) -> None:
    watch = start("watch", "--json", "--registry", world.url)
    watch.line()
    first = start(*arguments(world, "first", tmp_path))
    assert first.line().startswith("registered web/x ")
    assert watch.json()["added"]
    second = start(*arguments(world, "second", tmp_path, "--takeover", port=2))
    assert second.line().startswith("registered web/x at 127.0.0.1:2 ")
    assert first.line() == "handed web/x over to 'second', who asked for it"
    assert first.line() == END
    assert first.end() == 0
    assert "WARNING" not in first.stderr.upper()
    moved = watch.json()
    assert [[each["port"] for each in moved[kind]] for kind in ("added", "updated", "removed")] == [[], [2], []]
    assert second.stop() == 0
    assert [each["port"] for each in watch.json()["removed"]] == [2]


def test_the_command_of_the_loser_goes_on_and_takes_the_key_when_it_is_free(
    start: Start, world: World, tmp_path: Path
) -> None:
    """Nothing that the registry does stops the command."""
    command = ["--check", "none", "--", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    first = start(*arguments(world, "first", tmp_path, *command))
    assert first.line() == "up"
    eventually_sync(lambda: "registered" in first.stderr, "the registration")
    second = start(*arguments(world, "second", tmp_path, "--takeover", port=2))
    assert second.line().startswith("registered web/x at 127.0.0.1:2 ")
    eventually_sync(lambda: "handed over" in first.stderr and "second" in first.stderr, "the name of the new owner")
    assert first.process.poll() is None
    before = first.stderr.count("registered")
    assert second.stop() == 0
    eventually_sync(lambda: first.stderr.count("registered") > before, "the key to be registered again")
    first.stop(signal.SIGTERM)


def test_who_does_not_answer_keeps_the_key(start: Start, world: World, tmp_path: Path) -> None:
    world.put("web/x", '{"host": "10.0.0.1", "port": 80, "owner": "another program"}')
    asking = start(*arguments(world, "second", tmp_path, "--takeover", "--timeout", "0.5"))
    assert asking.end() == 1
    assert (
        "the record 'web/x' belongs to 'another program', who is asked for it and has not answered yet:"
        " force it to take it without an answer" in asking.stderr
    )
    world.put("web/x", "10.0.0.1:80")
    asking = start(*arguments(world, "second", tmp_path, "--takeover"))
    assert asking.end() == 1
    assert "the record 'web/x' belongs to an unnamed owner, who cannot be asked for it" in asking.stderr
    both = start(*arguments(world, "second", tmp_path, "--takeover", "--force"))
    assert both.end() == 2
    assert "give one of them" in both.stderr
