"""Providers in real daemons: what one finds is registered, followed and withdrawn, whatever happens meanwhile."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery.embedded import EmbeddedEtcd
from discovery.registry import open_registry
from discovery.testing import contents, eventually, eventually_sync, following, require_program

LISTED = """
import asyncio, dataclasses, json, time
from pathlib import Path
from discovery import (
    Backend, Candidate, CannotStartError, Check, Inventory, Outcome, PluginConfig, Provider, Verdict, hookimpl
)

class Options(PluginConfig):
    path: Path
    label: str = ""

@dataclasses.dataclass(frozen=True)
class Says:
    verdict: str

    async def __call__(self, backend):
        return Outcome(Verdict(self.verdict), f"says {self.verdict}")

class Listed(Provider[Options]):
    Config = Options

    async def setup(self):
        if self.config.label == "never":
            raise CannotStartError("there is nothing here to look at")

    async def discover(self):
        told = None
        while True:
            if self.config.path.with_suffix(".blocks").exists():
                time.sleep(60)
            text = self.config.path.read_text()
            if text != told:
                told = text
                yield self.inventory(json.loads(text))
            await asyncio.sleep(0.02)

    def inventory(self, document):
        labels = {"label": self.config.label} if self.config.label else {}
        return Inventory(
            tuple(
                Candidate(
                    Backend("web", id, "10.0.0.1", port, labels=labels),
                    (Check(Says(verdict), interval=0.05),) if verdict else (),
                )
                for id, port, verdict in document["found"]
            ),
            document.get("problems", {}),
        )

@hookimpl
def discovery_register_providers(register):
    register("listed", Listed)
"""
COPIES = """
from pathlib import Path
from discovery import Consumer, PluginConfig, Update, hookimpl

class Options(PluginConfig):
    path: Path

class Copies(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        temporary = self.config.path.with_suffix(".new")
        temporary.write_text(" ".join(backend.address for backend in update.snapshot.backends()))
        temporary.replace(self.config.path)

@hookimpl
def discovery_register_consumers(register):
    register("copies", Copies)
"""
HANGS = """
import asyncio
from discovery import hookimpl
from discovery.registry.memory import MemoryLease, MemoryRegistry

class Lease(MemoryLease):
    async def close(self):
        await asyncio.Event().wait()

class Hanging(MemoryRegistry):
    async def open_lease(self, owner, ttl):
        return Lease(self, owner, ttl)

    async def close(self):
        await asyncio.Event().wait()

@hookimpl
def discovery_register_registries(register):
    register("hangs", lambda url: Hanging())
"""


@pytest.fixture
def listed(install_plugin: Callable[..., None], tmp_path: Path) -> "Found":
    install_plugin("listed", LISTED)
    return Found(tmp_path / "found.json")


class Found:
    """What the provider `listed` finds: (id, port, verdict of its check, or "" for no check)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.option = f"listed.path={path}"

    def __call__(self, *found: tuple[str, int, str], **problems: str) -> None:
        write(self.path, json.dumps({"found": found, "problems": problems}))

    def table(self, name: str = "listed", **keys: Any) -> str:
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"path": str(self.path), **keys}.items()]
        return "\n".join((f'[providers.{name}]\nplugin = "listed"', *lines, ""))


def write(path: Path, text: str) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
    return path


@pytest.fixture
def etcd() -> Iterator[EmbeddedEtcd]:
    require_program("etcd")
    with EmbeddedEtcd() as server:
        yield server


@pytest.fixture(params=["file", "etcd"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "file":
        return str(request.getfixturevalue("file_registry")[0])
    return str(request.getfixturevalue("etcd").url)


def registered(url: str) -> dict[str, dict[str, Any]]:
    """What stands in the registry now, by key."""

    async def read() -> dict[str, bytes]:
        registry = open_registry(url)
        try:
            return await contents(registry)
        finally:
            await registry.close()

    return {key: json.loads(value) for key, value in asyncio.run(read()).items()}


def addresses(url: str) -> dict[str, str]:
    return {key: f"{record['host']}:{record['port']}" for key, record in registered(url).items()}


def test_what_is_found_is_registered_followed_and_withdrawn(url: str, start_daemon: Any, listed: Found) -> None:
    listed(("a", 80, ""), ("b", 81, "passing"), ("c", 82, "failing"))
    daemon = start_daemon("--registry", url, "--plugin", "listed", "--set", listed.option, "--set", "listed.ttl=7")
    eventually_sync(daemon.is_ready, timeout=20)
    assert addresses(url) == {"web/a": "10.0.0.1:80", "web/b": "10.0.0.1:81"}
    record = registered(url)["web/a"]
    assert record["ttl"] == 7
    assert record["owner"].endswith("/listed")
    listed(("b", 91, "passing"), ("c", 82, "passing"), ("d", 83, "draining"))
    eventually_sync(lambda: addresses(url) == {"web/b": "10.0.0.1:91", "web/c": "10.0.0.1:82", "web/d": "10.0.0.1:83"})
    assert registered(url)["web/d"]["state"] == "draining"
    assert daemon.stop() == 0
    assert registered(url) == {}
    assert "Traceback" not in daemon.log


def test_the_admin_endpoint_tells_every_candidate_and_why_it_is_not_registered(
    start_daemon: Any, file_registry: Any, listed: Found
) -> None:
    listed(("a", 80, "passing"), ("b", 81, "failing"), thing="it has no port")
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option)
    eventually_sync(daemon.is_ready, timeout=20)
    provider = daemon.provider("listed")
    assert [(each["id"], each["verdict"], each["registered"]) for each in provider["candidates"]] == [
        ("a", "passing", True),
        ("b", "failing", False),
    ]
    assert provider["candidates"][0]["why_not"] is None
    assert "says failing" in provider["candidates"][1]["why_not"]
    assert provider["problems"] == {"thing": "it has no port"}
    # What was found and cannot be registered is no illness of the provider.
    status, health = daemon.get("/healthz")
    assert (status, health["problems"], health["registry"]["connected"]) == (200, {}, None)
    metrics = daemon.get("/metrics")[1].splitlines()
    for line in (
        'discovery_provider_candidates{provider="listed",verdict="passing"} 1.0',
        'discovery_provider_candidates{provider="listed",verdict="failing"} 1.0',
        'discovery_provider_registered{provider="listed"} 1.0',
        'discovery_provider_problems{provider="listed"} 1.0',
        'discovery_provider_failures_total{provider="listed"} 0.0',
        'discovery_provider_healthy{provider="listed"} 1.0',
    ):
        assert line in metrics
    assert not any(line.startswith("discovery_registry_connected") for line in metrics)
    assert daemon.get("/api/snapshot")[0] == 503
    listed.path.unlink()
    eventually_sync(lambda: "found.json" in daemon.get("/healthz")[1]["problems"].get("listed", ""))
    assert daemon.get("/healthz")[0] == 503
    assert addresses(file_registry[0]) == {"web/a": "10.0.0.1:80"}


def test_both_roles_in_one_daemon(
    url: str, tmp_path: Path, start_daemon: Any, listed: Found, install_plugin: Callable[..., None]
) -> None:
    install_plugin("copies", COPIES)
    out = tmp_path / "out"
    listed(("a", 80, ""))
    options = ("--set", listed.option, "--set", f"copies.path={out}")
    daemon = start_daemon("--registry", url, "--plugin", "listed", "--plugin", "copies", *options)
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80", timeout=20)
    listed(("a", 80, ""), ("b", 81, ""))
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80 10.0.0.1:81")
    assert daemon.is_ready()
    assert daemon.stop(signal.SIGINT) == 0
    assert registered(url) == {}


def test_killed_and_started_again_at_once_it_never_leaves_the_registry(
    etcd: EmbeddedEtcd, start_daemon: Any, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, "passing"), ("b", 81, ""), ("gone", 82, ""))
    arguments = ("--registry", etcd.url, "--plugin", "listed", "--set", listed.option, "--set", "listed.ttl=3")

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_broken_or_blocking_provider_hurts_itself_alone(
    url: str, start_daemon: Any, listed: Found, install_plugin: Callable[..., None], tmp_path: Path
) -> None:
    install_plugin("broken", "import no_such_module_anywhere")
    listed(("a", 80, "passing"))
    blocks = Found(tmp_path / "blocked.json")
    blocks(("b", 81, ""))
    text = f'[registry]\nurl = "{url}"\n[providers.broken]\nplugin = "broken"\n'
    text += listed.table("good") + blocks.table("blocks") + listed.table("never", label="never")
    path = write(tmp_path / "discovery.toml", text + Found(tmp_path / "missing.json").table("fails"))
    daemon = start_daemon("--config", str(path))
    eventually_sync(lambda: len(registered(url)) == 2, timeout=20)
    blocks.path.with_suffix(".blocks").touch()
    for port in range(90, 95):
        listed(("a", port, "passing"))
        eventually_sync(lambda port=port: addresses(url)["web/a"] == f"10.0.0.1:{port}")
    status, health = daemon.get("/healthz")
    assert status == 503
    assert "missing.json" in health["problems"]["fails"]
    assert health["problems"]["never"] == "there is nothing here to look at"
    assert daemon.provider("never")["phase"] == "dead"
    assert daemon.get("/readyz")[1]["waiting_for"] == ["never", "fails"]
    assert "no_such_module_anywhere" in daemon.log
    daemon.process.terminate()
    # The thread that blocks keeps nothing in the registry, though it is waited for.
    eventually_sync(lambda: registered(url) == {})
    assert daemon.process.poll() is None
    assert daemon.process.wait(20) == 0
    assert "was abandoned provider=blocks" in daemon.log


def test_a_registry_that_hangs_does_not_keep_the_daemon(
    start_daemon: Any, listed: Found, install_plugin: Callable[..., None]
) -> None:
    install_plugin("hangs", HANGS)
    listed(("a", 80, ""))
    daemon = start_daemon("--registry", "hangs://", "--plugin", "listed", "--set", listed.option)
    eventually_sync(daemon.is_ready, timeout=20)
    assert daemon.stop(timeout=30) == 0
    assert "was abandoned provider=listed" in daemon.log


def test_it_ends_with_1_only_if_nothing_can_ever_run(
    start_daemon: Any, file_registry: Any, listed: Found, install_plugin: Callable[..., None], tmp_path: Path
) -> None:
    install_plugin("copies", COPIES)
    arguments = ("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", "listed.label=never")
    alone = start_daemon(*arguments)
    beside = start_daemon(*arguments, "--plugin", "copies", "--set", f"copies.path={tmp_path / 'out'}")
    assert alone.process.wait(20) == 1
    assert "there is nothing here to look at" in alone.log
    eventually_sync((tmp_path / "out").exists, timeout=20)
    assert beside.process.poll() is None


def test_an_outage_of_the_registry_is_no_illness_and_is_made_good(
    etcd: EmbeddedEtcd, start_daemon: Any, listed: Found
) -> None:
    listed(("a", 80, ""))
    etcd.kill()
    daemon = start_daemon("--registry", etcd.url, "--plugin", "listed", "--set", listed.option)
    eventually_sync(lambda: daemon.provider("listed")["candidates"][0]["verdict"] == "passing", timeout=20)
    eventually_sync(lambda: etcd.endpoint.rpartition("/")[2] in daemon.provider("listed")["candidates"][0]["why_not"])
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/readyz")[1]["waiting_for"] == ["listed"]
    listed(("b", 81, ""))
    etcd.start()
    eventually_sync(daemon.is_ready, timeout=20)
    assert addresses(etcd.url) == {"web/b": "10.0.0.1:81"}
    etcd.kill()
    assert daemon.stop() == 0


def test_a_reload_adds_changes_and_removes_providers_without_a_gap(
    etcd: EmbeddedEtcd, start_daemon: Any, listed: Found, tmp_path: Path
) -> None:
    other = Found(tmp_path / "other.json")
    listed(("a", 80, ""))
    other(("b", 81, ""))
    path = tmp_path / "discovery.toml"

    def configure(*tables: str) -> None:
        write(path, "\n".join((f'[registry]\nurl = "{etcd.url}"', *tables)))

    async def scenario() -> None:
        registry = open_registry(etcd.url)
        async with following(registry) as follower:

            def value(key: str, field: str) -> Any:
                return json.loads((follower.records or {})[key]).get(field)  # labels stand among the fields

            configure(listed.table("one"))
            daemon = start_daemon("--config", str(path))
            await follower.until(lambda: value("web/a", "ttl") == 10, timeout=20)
            since = follower.revision
            configure(listed.table("one"), other.table("two"))
            await follower.lists("web/a", "web/b")
            configure(listed.table("one", label="new"), other.table("two"))
            await follower.until(lambda: value("web/a", "label") == "new")
            configure(listed.table("one", label="new", ttl=5), other.table("two"))
            await follower.until(lambda: value("web/a", "ttl") == 5)
            # Nobody looks after the lease before any more, and what it held is not its own.
            await eventually(lambda: etcd.ctl("lease", "list").startswith("found 2 leases"))
            configure(listed.table("one", label="newer", ttl=5, owne="me"), other.table("two"))
            await eventually(lambda: "did you mean 'owner'?" in (daemon.get("/healthz")[1]["config_error"] or ""))
            configure(listed.table("one", label="new", ttl=5))
            await follower.lists("web/a")
            states = [records for revision, records in follower.states.items() if revision >= since]
            assert all("web/a" in records for records in states)
            configure(listed.table("one", label="new", ttl=5, owner="me"))
            await follower.until(lambda: value("web/a", "owner") == "me")
            assert daemon.get("/healthz")[1]["config_error"] is None
            assert "registering again" not in daemon.log
        await registry.close()

    asyncio.run(scenario())


def test_a_reload_takes_the_registrations_to_another_registry_and_the_last_provider_away(
    url: str, start_daemon: Any, listed: Found, install_plugin: Callable[..., None], tmp_path: Path
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
    assert daemon.get("/api/providers")[1] == {"providers": []}
    # A name may go from one role to the other.
    write(path, f'[registry]\nurl = "{other}"\n{listed.table("copies")}')
    eventually_sync(lambda: addresses(other) == {"web/a": "10.0.0.1:80"})
    assert daemon.get("/api/consumers")[1] == {"consumers": []}
    assert daemon.is_ready()


def test_a_second_daemon_on_one_run_directory_is_refused_by_name_and_disturbs_nothing(
    url: str, start_daemon: Any, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option)
    first = start_daemon(*arguments, run_dir=tmp_path / "run")
    eventually_sync(first.is_ready, timeout=20)
    second = start_daemon(*arguments, run_dir=tmp_path / "run")
    assert second.process.wait(20) == 1
    assert f"provider 'listed' is already running as process {first.process.pid}" in second.log
    assert addresses(url) == {"web/a": "10.0.0.1:80"}
    assert "registering again" not in first.log


def test_of_two_owners_of_one_key_the_second_waits_for_the_first(url: str, start_daemon: Any, listed: Found) -> None:
    listed(("a", 80, ""), ("mine", 81, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option, "--set", "listed.ttl=1")
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


@pytest.mark.parametrize("moment", ["at once", "loading", "running", "registered", "reloading"])
def test_ctrl_c_at_any_moment_leaves_nothing_registered(
    moment: str, url: str, start_daemon: Any, listed: Found, tmp_path: Path
) -> None:
    listed(*((f"b{number}", 1000 + number, "passing") for number in range(50)))
    path = write(tmp_path / "discovery.toml", f'[registry]\nurl = "{url}"\n{listed.table()}')
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
    assert daemon.process.wait(20) in ends.get(moment, (0,))
    assert registered(url) == {}
    if moment != "at once":  # Python itself may have been starting
        assert "Traceback" not in daemon.log


def test_dry_run_shows_what_would_be_registered_and_touches_nothing(
    start_daemon: Any, file_registry: Any, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, "passing"), ("b", 81, "failing"), ("c", 82, "draining"), thing="it has no port")
    arguments = ("--registry", "etcd://127.0.0.1:1", "--plugin", "listed", "--set", listed.option)
    daemon = start_daemon(*arguments, "--dry-run")
    assert daemon.process.wait(20) == 0
    assert daemon.log.splitlines() == [
        "# listed: 2 of 3 found would be registered",
        "+ web/a 10.0.0.1:80: says passing",
        "- web/b 10.0.0.1:81: says failing",
        "+ web/c 10.0.0.1:82 draining: says draining",
        "! thing: it has no port",
    ]
    assert not daemon.run_dir.exists()
    assert not (tmp_path / "state").exists()
    listed.path.unlink()
    daemon = start_daemon(*arguments, "--dry-run")
    assert daemon.process.wait(20) == 1
    assert daemon.log.startswith("discovery: listed: FileNotFoundError: ")


def test_once_with_a_provider_is_a_usage_error(start_daemon: Any, file_registry: Any, listed: Found) -> None:
    listed()
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option, "--once")
    assert daemon.process.wait(20) == 2
    assert daemon.log.startswith("discovery: --once: what the provider 'listed' finds is registered for as long as it")


def test_a_plugin_of_both_roles_takes_a_file(
    start_daemon: Any, file_registry: Any, install_plugin: Callable[..., None], tmp_path: Path
) -> None:
    both = LISTED.replace('"listed"', '"both"') + COPIES.replace('"copies"', '"both"').replace("Options", "Others")
    install_plugin("both", both)
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "both")
    assert daemon.process.wait(20) == 2
    assert "this plugin is a consumer and a provider" in daemon.log
    found = Found(tmp_path / "found.json")
    found(("a", 80, ""))
    text = f'[providers.in]\nplugin = "both"\npath = "{found.path}"\n'
    path = write(tmp_path / "both.toml", text + f'[consumers.out]\nplugin = "both"\npath = "{tmp_path / "out"}"\n')
    daemon = start_daemon("--registry", file_registry[0], "--config", str(path))
    eventually_sync(lambda: (tmp_path / "out").read_text() == "10.0.0.1:80", timeout=20)
    listing = subprocess.run(
        [*start_daemon.command, "plugins", "--json"],
        capture_output=True,
        env={**os.environ, **start_daemon.environment},
        check=True,
    )
    plugins = {each["name"]: each["provides"] for each in json.loads(listing.stdout)}
    assert plugins["both"] == ["consumer both", "provider both"]
