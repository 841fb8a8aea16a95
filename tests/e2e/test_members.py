"""The members of etcd as a daemon tells them: on the page, in `/api/status`, and by `discovery status`."""

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
from daemons import Daemon, Starter

from discovery.testing import eventually_sync, require_program, within
from discovery.testing.etcd import EtcdCluster

pytestmark = pytest.mark.warm

PLUGIN = """
from discovery import Consumer, hookimpl

class Follows(Consumer):
    def apply(self, update):
        pass

@hookimpl
def discovery_register_consumers(register):
    register("follows", Follows)
"""


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    require_program("etcd")
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, cluster: EtcdCluster) -> Daemon:
    plugin = tmp_path / "follows.py"
    plugin.write_text(PLUGIN)
    daemon = start_daemon("--registry", f"{cluster.url}/services", "--plugin", str(plugin))
    eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=60)
    return daemon


def members(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """What the daemon tells by name; nothing while it does not know."""
    told = daemon.get("/api/status")[1]["registry"]["members"]
    return {each["name"]: each for each in told["members"]}


def page(daemon: Daemon) -> str:
    request = urllib.request.Request(f"http://{daemon.admin}/", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=within(20)) as answer:
        return str(answer.read().decode())


def status(daemon: Daemon) -> str:
    done = warm.run("status", "--admin", daemon.admin, "--config", "/dev/null", env=os.environ, timeout=within(60))
    assert done.returncode == 0
    return done.stdout


def test_members_are_told_and_so_is_one_that_ends(daemon: Daemon, cluster: EtcdCluster) -> None:
    told: dict[str, dict[str, Any]] = {}

    def led_by_one() -> bool:
        told.clear()
        told.update(members(daemon))
        return [each["state"] for each in told.values()] == ["answers"] * 3 and (
            sorted(each["role"] for each in told.values()) == ["follower", "follower", "leader"]
        )

    eventually_sync(led_by_one, "three members", timeout=60)
    assert [each["endpoints"] for each in told.values()] == [[each.endpoint] for each in cluster.members]
    assert all(each["size_bytes"] > 0 and each["version"].startswith("3.") for each in told.values())
    eventually_sync(lambda: page(daemon).count(' data-label="Database"') == 3, timeout=60)
    eventually_sync(lambda: status(daemon).count(" answers\n") == 3, timeout=60)

    at = next(number for number, each in enumerate(told.values()) if each["role"] == "follower")
    cluster.members[at].send_signal(signal.SIGKILL)
    cluster.members[at].stop()
    gone: dict[str, Any] = {}

    def is_gone() -> bool:
        gone.update(members(daemon).get(f"m{at}", {}))
        return "connection refused" in (gone.get("reason") or "")

    eventually_sync(is_gone, "the end of a member", timeout=60)
    assert (gone["state"], gone["version"]) == ("not serving", None)
    eventually_sync(lambda: "connection refused" in page(daemon), timeout=60)
    eventually_sync(lambda: "not serving: connection refused" in status(daemon), timeout=60)
    assert status(daemon).startswith("ok, ready\n"), "the others serve"
