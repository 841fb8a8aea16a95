"""The owner of a record, whoever registered it: on the live page, by `explain`, `services` and as JSON."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import warm
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

PLUGIN = """
from discovery import Consumer, PluginConfig, hookimpl

class Follows(Consumer[PluginConfig]):
    def apply(self, update):
        pass

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""
ROW = 'id="backend-web%2Fb1"'


@contextmanager
def registered(tmp_path: Path, url: str, owner: str, *options: str) -> Iterator[None]:
    """While `discovery register` of another run directory registers web/b1 for `owner`."""
    line = ["register", "web", "10.0.0.1:80", "--id", "b1", "--owner", owner, "--registry", url, "--check", "none"]
    line += ["--run-dir", str(tmp_path / owner), "--config", "/dev/null", *options]
    log_path = tmp_path / f"{owner}.log"
    with log_path.open("wb") as log:
        other = warm.start(*line, env=os.environ, stdout=log, stderr=log)
    try:
        eventually_sync(lambda: "registered web/b1" in log_path.read_text(), "the registration", timeout=60)
        yield
    finally:
        other.terminate()
        other.wait(within(20))


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> Daemon:
    plugin = tmp_path / "follows.py"
    plugin.write_text(PLUGIN)
    daemon = start_daemon("--registry", file_registry[0], "--plugin", str(plugin))
    eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=60)
    return daemon


def page(daemon: Daemon, query: str = "") -> str:
    request = urllib.request.Request(f"http://{daemon.admin}/{query}", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=within(20)) as answer:
        return str(answer.read().decode())


@contextmanager
def stream(daemon: Daemon, query: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The documents of the live page's stream, without the first, which names the views."""
    with urllib.request.urlopen(f"http://{daemon.admin}/stream{query}", timeout=within(60)) as answer:
        documents = (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))
        next(documents)
        yield documents


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(*arguments, "--config", "/dev/null", env=os.environ, timeout=within(60))


def explained(daemon: Daemon, id_: str = "b1") -> tuple[bool, str | None]:
    """Whether the consumer has the record, and its owner."""
    (record,) = daemon.get(f"/api/explain?service=web&id={id_}")[1]["records"]
    return record["used"], record["owner"]


def test_the_owner_of_what_another_program_registers_is_told(
    tmp_path: Path, daemon: Daemon, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    write("web/by-hand", "10.0.0.2:80")
    with registered(tmp_path, url, "shelf-7"):
        eventually_sync(lambda: explained(daemon) == (True, "shelf-7"), "the owner", timeout=60)
        assert '<td data-label="Owner" class="owner"><span>shelf-7</span></td>' in page(daemon)
        assert ROW in page(daemon, "?q=SHELF-7")
        assert ROW not in page(daemon, "?q=shelf-8")

        text = command("explain", "web", "--admin", daemon.admin)
        assert text.stdout.startswith("web/b1 10.0.0.1:80: used\n  owner shelf-7\n  follows: live")
        alone = command("explain", "web", "--registry", url, "--admin", "127.0.0.1:1", "--json")
        assert {each["key"]: each["owner"] for each in json.loads(alone.stdout)["records"]} == {
            "web/b1": "shelf-7",
            "web/by-hand": None,
        }

        def by_hand_is_there() -> bool:
            return len(daemon.get("/api/snapshot")[1]["services"]["web"]) == 2

        eventually_sync(by_hand_is_there, "the record of a person", timeout=60)
        for document in (
            daemon.get("/api/snapshot")[1],
            json.loads(command("services", "--registry", url, "--json").stdout),
        ):
            assert {each["id"]: each["owner"] for each in document["services"]["web"]} == {
                "b1": "shelf-7",
                "by-hand": None,
            }


def test_another_owner_is_told_and_is_no_change_for_a_consumer(
    tmp_path: Path, daemon: Daemon, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    with ExitStack() as ends:
        ends.enter_context(registered(tmp_path, url, "shelf-7"))
        eventually_sync(lambda: explained(daemon) == (True, "shelf-7"), "the owner", timeout=60)
        eventually_sync(lambda: daemon.consumer("follows")["lag_seconds"] == 0, "the apply to be counted", timeout=60)
        before = daemon.consumer("follows")["applies"]
        documents = ends.enter_context(stream(daemon, "?view=q%3Dshelf-8"))
        assert next(documents)["rows"]["backend-rows"] == {"order": []}
        ends.enter_context(registered(tmp_path, url, "shelf-8", "--force"))
        rows = next(each["rows"]["backend-rows"] for each in documents if "backend-rows" in each["rows"])
        assert rows["order"] == ["backend-web%2Fb1"]
        assert "shelf-8" in rows["html"]["backend-web%2Fb1"]
        assert explained(daemon) == (True, "shelf-8")

        write("web/later", "10.0.0.2:80")
        eventually_sync(lambda: explained(daemon, "later") == (True, None), "the next change to be applied", timeout=60)
        eventually_sync(lambda: daemon.consumer("follows")["lag_seconds"] == 0, "the apply to be counted", timeout=60)
        assert daemon.consumer("follows")["applies"] == before + 1
