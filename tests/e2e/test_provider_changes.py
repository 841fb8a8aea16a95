"""Providers through restarts, reloads, rivals and Ctrl-C: no key goes that is wanted, and none stays that is not."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Starter
from etcds import etcd_of_its_own
from listed import COPIES, Found, addresses, listed, registered, url, write

from discovery.registry import open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually, eventually_sync, following, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own", "listed", "url"]


@pytest.mark.costly
async def test_killed_and_started_again_at_once_it_never_leaves_the_registry(
    etcd: EmbeddedEtcd, start_daemon: Starter, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, "passing"), ("b", 81, ""), ("gone", 82, ""))
    # The TTL is long enough for a daemon to start on a busy machine.
    arguments = ("--registry", etcd.url, "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", f"listed.ttl={within(8):g}")
    registry = open_registry(etcd.url)
    async with following(registry) as follower:
        first = start_daemon(*arguments, run_dir=tmp_path / "run")
        await follower.until(lambda: len(follower.records or {}) == 3, timeout=20)
        registered_at = follower.revision
        first.process.kill()
        first.process.wait()
        listed(("a", 80, "passing"), ("b", 81, ""))
        second = start_daemon(*arguments, run_dir=tmp_path / "run")
        await follower.lists("web/a", "web/b")
        # The lease of the first is over, too.
        await eventually(lambda: etcd.ctl("lease", "list").startswith("found 1 leases"), timeout=20)
        await follower.until(second.is_ready)
        states = [records for revision, records in follower.states.items() if revision >= registered_at]
        assert all({"web/a", "web/b"} <= records.keys() for records in states)
    await registry.close()


async def test_a_reload_adds_changes_and_removes_providers_without_a_gap(
    etcd: EmbeddedEtcd, start_daemon: Starter, listed: Found, tmp_path: Path
) -> None:
    other = Found(tmp_path / "other.json")
    listed(("a", 80, ""))
    other(("b", 81, ""))
    path = tmp_path / "discovery.toml"
    long, short = within(10), within(5)  # no lease expires on a busy machine

    def configure(*tables: str) -> None:
        write(path, "\n".join((f'[registry]\nurl = "{etcd.url}"', *tables)))

    registry = open_registry(etcd.url)
    async with following(registry) as follower:

        def value(key: str, field: str) -> Any:
            return json.loads((follower.records or {})[key]).get(field)  # labels stand among the fields

        configure(listed.table("one", ttl=long))
        daemon = start_daemon("--config", str(path))
        await follower.until(lambda: value("web/a", "ttl") == long, timeout=20)
        since = follower.revision
        configure(listed.table("one", ttl=long), other.table("two", ttl=long))
        await follower.lists("web/a", "web/b")
        configure(listed.table("one", label="new", ttl=long), other.table("two", ttl=long))
        await follower.until(lambda: value("web/a", "label") == "new")
        configure(listed.table("one", label="new", ttl=short), other.table("two", ttl=long))
        await follower.until(lambda: value("web/a", "ttl") == short)
        # Nobody looks after the lease before any more, and what it held is not its own.
        await eventually(lambda: etcd.ctl("lease", "list").startswith("found 2 leases"))
        configure(listed.table("one", label="newer", ttl=short, owne="me"), other.table("two", ttl=long))
        await eventually(lambda: "did you mean 'owner'?" in (daemon.get("/healthz")[1]["config_error"] or ""))
        configure(listed.table("one", label="new", ttl=short))
        await follower.lists("web/a")
        states = [records for revision, records in follower.states.items() if revision >= since]
        assert all("web/a" in records for records in states)
        configure(listed.table("one", label="new", ttl=short, owner="me"))
        await follower.until(lambda: value("web/a", "owner") == "me")
        assert daemon.get("/healthz")[1]["config_error"] is None
        assert "registering again" not in daemon.log
    await registry.close()


def test_a_reload_takes_the_registrations_to_another_registry_and_the_last_provider_away(
    url: str, start_daemon: Starter, listed: Found, install_plugin: Callable[..., None], tmp_path: Path
) -> None:
    install_plugin("copies", COPIES)
    (tmp_path / "other").mkdir()
    other, out = f"file://{tmp_path / 'other'}", tmp_path / "out"
    copies = f'[consumers.copies]\nplugin = "copies"\npath = "{out}"\n'
    listed(("a", 80, ""))
    path = write(tmp_path / "discovery.toml", f'[registry]\nurl = "{url}"\n{listed.table()}')
    daemon = start_daemon("--config", str(path))
    eventually_sync(lambda: addresses(url) == {"web/a": "10.0.0.1:80"}, timeout=20)
    write(path, f'[registry]\nurl = "{other}"\n{listed.table()}')
    eventually_sync(lambda: addresses(other) == {"web/a": "10.0.0.1:80"})
    eventually_sync(lambda: registered(url) == {})
    write(path, f'[registry]\nurl = "{other}"\n{listed.table()}{copies}')
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80")
    write(path, f'[registry]\nurl = "{other}"\n{copies}')
    eventually_sync(lambda: registered(other) == {})
    eventually_sync(lambda: out.read_text() == "")
    eventually_sync(lambda: daemon.get("/api/providers")[1] == {"providers": []})
    # A name may go from one role to the other.
    write(path, f'[registry]\nurl = "{other}"\n{listed.table("copies")}')
    eventually_sync(lambda: addresses(other) == {"web/a": "10.0.0.1:80"})
    eventually_sync(lambda: daemon.get("/api/consumers")[1] == {"consumers": []})
    assert daemon.is_ready()


def test_a_second_daemon_on_one_run_directory_is_refused_by_name_and_disturbs_nothing(
    url: str, start_daemon: Starter, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", f"listed.ttl={within(10):g}")
    first = start_daemon(*arguments, run_dir=tmp_path / "run")
    eventually_sync(first.is_ready, timeout=20)
    second = start_daemon(*arguments, run_dir=tmp_path / "run")
    assert second.process.wait(within(20)) == 1
    assert f"provider 'listed' is already running as process {first.process.pid}" in second.log
    assert addresses(url) == {"web/a": "10.0.0.1:80"}
    assert "registering again" not in first.log


def test_of_two_owners_of_one_key_the_second_waits_for_the_first(
    url: str, start_daemon: Starter, listed: Found
) -> None:
    listed(("a", 80, ""), ("mine", 81, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", f"listed.ttl={within(10):g}")  # the first daemon stays alive on a busy machine
    first = start_daemon(*arguments, "--set", "listed.owner=first")
    eventually_sync(first.is_ready, timeout=20)
    listed(("a", 80, ""))
    eventually_sync(lambda: addresses(url) == {"web/a": "10.0.0.1:80"})
    second = start_daemon(*arguments, "--set", "listed.owner=second")
    eventually_sync(second.is_ready, timeout=20)
    (candidate,) = second.provider("listed")["candidates"]
    assert re.search(r"belongs to '?first", candidate["why_not"])
    assert second.get("/healthz")[0] == 200
    assert registered(url)["web/a"]["owner"] == "first"
    assert first.stop() == 0
    eventually_sync(lambda: registered(url)["web/a"]["owner"] == "second", timeout=20)


@pytest.mark.parametrize("url", ["etcd"], indirect=True)
def test_a_provider_hands_a_key_over_to_one_that_asks_and_has_it_again_when_it_is_free(
    url: str, start_daemon: Starter, listed: Found
) -> None:
    """Issue 12, C.1."""
    listed(("a", 80, ""), ("b", 81, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option, "--set", "listed.ttl=600")
    first = start_daemon(*arguments, "--set", "listed.owner=first")
    eventually_sync(first.is_ready, timeout=20)
    second = start_daemon(*arguments, "--set", "listed.owner=second", "--set", "listed.takeover=true")
    eventually_sync(lambda: {each["owner"] for each in registered(url).values()} == {"second"}, timeout=20)
    eventually_sync(lambda: first.provider("listed")["registered"] == 0, timeout=20)
    reason = first.provider("listed")["candidates"][0]["why_not"]
    assert reason == "the record 'web/a' was handed over to 'second', who asked for it"
    assert first.get("/healthz")[0] == 200
    assert "registration lost" not in first.log
    assert second.stop() == 0
    eventually_sync(lambda: {each["owner"] for each in registered(url).values()} == {"first"}, timeout=20)


@pytest.mark.parametrize("moment", ["at once", "loading", "running", "registered", "reloading"])
def test_ctrl_c_at_any_moment_leaves_nothing_registered(
    moment: str, url: str, start_daemon: Starter, listed: Found, tmp_path: Path
) -> None:
    listed(*((f"b{number}", 1000 + number, "passing") for number in range(50)))
    path = write(tmp_path / "discovery.toml", f'[registry]\nurl = "{url}"\n{listed.table()}')
    start_daemon.forks = moment not in ("at once", "loading")  # then Python itself starts
    daemon = start_daemon("--config", str(path))
    if moment == "loading":
        eventually_sync(daemon.run_dir.exists, timeout=20)
    if moment in ("running", "registered", "reloading"):
        eventually_sync(lambda: "running" in daemon.log, timeout=20)
    if moment in ("registered", "reloading"):
        eventually_sync(lambda: registered(url), timeout=20)
    if moment == "reloading":
        write(path, f'[registry]\nurl = "{url}"\n{listed.table(ttl=5, label="new")}')
        eventually_sync(lambda: any("ttl" in each and each["ttl"] == 5 for each in registered(url).values()))
    os.killpg(daemon.process.pid, signal.SIGINT)
    ends = {"at once": (0, 130, -signal.SIGINT), "loading": (0, 130)}  # with 130 before it handles signals itself
    code = daemon.process.wait(within(20))
    if moment == "at once" and code == 1:
        # Python ends with 1 where its own start is interrupted.
        assert any(words in daemon.log for words in ("Fatal Python error: init_", "Could not import runpy module"))
    else:
        assert code in ends.get(moment, (0,))
    assert registered(url) == {}
    if moment != "at once":  # Python itself may have been starting
        assert "Traceback" not in daemon.log
