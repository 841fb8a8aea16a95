"""Providers in real daemons: what one finds is registered, followed and withdrawn, whatever its neighbours do."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter
from etcds import etcd_of_its_own
from listed import COPIES, LISTED, Found, addresses, listed, registered, url, write
from third_party import HANGS

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own", "listed", "url"]


def test_what_is_found_is_registered_followed_and_withdrawn(url: str, start_daemon: Starter, listed: Found) -> None:
    listed(("a", 80, ""), ("b", 81, "passing"), ("c", 82, "failing"))
    daemon = start_daemon("--registry", url, "--plugin", "listed", "--set", listed.option, "--set", "listed.ttl=600")
    eventually_sync(daemon.is_ready, timeout=20)
    assert addresses(url) == {"web/a": "10.0.0.1:80", "web/b": "10.0.0.1:81"}
    record = registered(url)["web/a"]
    assert record["ttl"] == 600
    assert "/listed@" in record["owner"]
    listed(("b", 91, "passing"), ("c", 82, "passing"), ("d", 83, "draining"))
    eventually_sync(lambda: addresses(url) == {"web/b": "10.0.0.1:91", "web/c": "10.0.0.1:82", "web/d": "10.0.0.1:83"})
    assert registered(url)["web/d"]["state"] == "draining"
    assert daemon.stop() == 0
    assert registered(url) == {}
    assert "Traceback" not in daemon.log


def test_the_admin_endpoint_tells_every_candidate_and_why_it_is_not_registered(
    start_daemon: Starter, file_registry: RecordFiles, listed: Found
) -> None:
    listed(("a", 80, "passing"), ("b", 81, "failing"), thing="it has no port")
    settings = ("--set", listed.option, "--set", "listed.origin=DISCOVERY_ADDRESS")
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "listed", *settings)
    eventually_sync(daemon.is_ready, timeout=20)
    provider = daemon.provider("listed")
    assert [each["address_origin"] for each in provider["candidates"]] == ["DISCOVERY_ADDRESS"] * 2
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
    url: str, tmp_path: Path, start_daemon: Starter, listed: Found, install_plugin: Callable[..., None]
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


def test_a_broken_or_blocking_provider_hurts_itself_alone(
    url: str, start_daemon: Starter, listed: Found, install_plugin: Callable[..., None], tmp_path: Path
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
    assert daemon.process.wait(within(20)) == 0
    assert "was abandoned provider=blocks" in daemon.log


def test_a_registry_that_hangs_does_not_keep_the_daemon(
    start_daemon: Starter, listed: Found, install_plugin: Callable[..., None]
) -> None:
    install_plugin("hangs", HANGS)
    listed(("a", 80, ""))
    daemon = start_daemon("--registry", "hangs://", "--plugin", "listed", "--set", listed.option)
    eventually_sync(daemon.is_ready, timeout=20)
    assert daemon.stop(timeout=30) == 0
    assert "was abandoned provider=listed" in daemon.log


def test_it_ends_with_1_only_if_nothing_can_ever_run(
    start_daemon: Starter,
    file_registry: RecordFiles,
    listed: Found,
    install_plugin: Callable[..., None],
    tmp_path: Path,
) -> None:
    install_plugin("copies", COPIES)
    arguments = ("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", "listed.label=never")
    alone = start_daemon(*arguments)
    beside = start_daemon(*arguments, "--plugin", "copies", "--set", f"copies.path={tmp_path / 'out'}")
    assert alone.process.wait(within(20)) == 1
    assert "there is nothing here to look at" in alone.log
    eventually_sync((tmp_path / "out").exists, timeout=20)
    assert beside.process.poll() is None


def test_an_outage_of_the_registry_is_no_illness_and_is_made_good(
    etcd: EmbeddedEtcd, start_daemon: Starter, listed: Found
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


def test_dry_run_shows_what_would_be_registered_and_touches_nothing(
    start_daemon: Starter, file_registry: RecordFiles, listed: Found, tmp_path: Path
) -> None:
    listed(("a", 80, "passing"), ("b", 81, "failing"), ("c", 82, "draining"), thing="it has no port")
    arguments = ("--registry", "etcd://127.0.0.1:1", "--plugin", "listed", "--set", listed.option)
    daemon = start_daemon(*arguments, "--dry-run")
    assert daemon.process.wait(within(20)) == 0
    assert daemon.log.splitlines() == [
        "# listed: 2 of 3 found would be registered",
        "+ web/a 10.0.0.1:80: says passing",
        "- web/b 10.0.0.1:81: says failing",
        "+ web/c 10.0.0.1:82 draining: says draining",
        "! thing: it has no port",
    ]
    assert not daemon.run_dir.exists()
    assert not (tmp_path / "state").exists()
    daemon = start_daemon(*arguments, "--set", "listed.origin=the configuration", "--dry-run")
    assert daemon.process.wait(within(20)) == 0
    assert "+ web/a 10.0.0.1:80 (the configuration): says passing" in daemon.log.splitlines()
    listed.path.unlink()
    daemon = start_daemon(*arguments, "--dry-run")
    assert daemon.process.wait(within(20)) == 1
    assert daemon.log.startswith("discovery: listed: FileNotFoundError: ")


def test_once_with_a_provider_is_a_usage_error(
    start_daemon: Starter, file_registry: RecordFiles, listed: Found
) -> None:
    listed()
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "listed", "--set", listed.option, "--once")
    assert daemon.process.wait(within(20)) == 2
    assert daemon.log.startswith("discovery: --once: what the provider 'listed' finds is registered for as long as it")


@pytest.mark.costly
def test_a_plugin_of_both_roles_takes_a_file(
    start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None], tmp_path: Path
) -> None:
    both = LISTED.replace('"listed"', '"both"') + COPIES.replace('"copies"', '"both"').replace("Options", "Others")
    install_plugin("both", both)
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "both")
    assert daemon.process.wait(within(20)) == 2
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
