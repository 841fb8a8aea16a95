"""`discovery history` and `/api/history`: real etcd, real HAProxy, and a consumer that fails for a while."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import warm
from daemons import Daemon, Starter
from etcds import etcd_of_its_own
from prometheus_client.parser import text_string_to_metric_families

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own"]

FAILING = """
from pathlib import Path
from discovery import Consumer, PluginConfig, hookimpl

class Options(PluginConfig):
    path: Path

class Failing(Consumer[Options]):
    Config = Options

    def apply(self, update):
        if self.config.path.exists():
            raise OSError("the disk is full")

@hookimpl
def discovery_register_consumers(register):
    register("failing", Failing)
"""


def history(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ("history", "--admin", daemon.admin, "--config", "/dev/null", *arguments)
    return warm.run(*command, env=os.environ, timeout=within(60))


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> Daemon:
    require_program("haproxy")
    plugin, config = tmp_path / "failing.py", tmp_path / "discovery.toml"
    plugin.write_text(FAILING)
    config.write_text(f"""
[consumers.haproxy]
plugin = "haproxy"
services.web.bind = "127.0.0.1:{free_port()}"
[consumers.failing]
plugin = "{plugin}"
path = "{tmp_path / "fails"}"
[consumers.databases]
plugin = "{plugin}"
path = "{tmp_path / "never"}"
filter = {{ services = "db" }}
""")
    etcd.ctl("put", "/services/web/a", "127.0.0.1:1001")
    daemon = start_daemon("--registry", etcd.url, "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    return daemon


def newest(daemon: Daemon, key: str) -> dict[str, Any]:
    """Wait for the change that names `key` first, and return it."""

    def find() -> dict[str, Any] | None:
        status, document = daemon.get("/api/history")
        assert status == 200
        return next((each for each in document["changes"] if key in {it["key"] for it in each["changes"]}), None)

    eventually_sync(lambda: find() is not None, key, timeout=60)
    found = find()
    assert found is not None
    return found


def counted(daemon: Daemon, consumer: str) -> float:
    """How many delays of the consumer `/metrics` has."""
    metric = "discovery_consumer_delay_seconds"
    return next(
        each.value
        for family in text_string_to_metric_families(daemon.get("/metrics")[1])
        for each in family.samples
        if each.name == f"{metric}_count" and each.labels == {"consumer": consumer}
    )


def test_each_change_has_the_delay_of_each_consumer(daemon: Daemon, etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    etcd.ctl("put", "/services/web/b", "127.0.0.1:1002")
    eventually_sync(lambda: newest(daemon, "web/b")["consumers"]["haproxy"] is not None, timeout=60)
    change = newest(daemon, "web/b")
    took = change["consumers"]["haproxy"]
    parts = took["watch_ms"] + took["queue_ms"] + took["apply_ms"]
    assert took["applied_ms"] == pytest.approx(parts, abs=0.01)
    assert took["apply_ms"] > took["verify_ms"] > 0, "a new server is read back"
    assert took["concerned"]
    assert change["consumers"]["failing"] is None, "it has not applied it yet"
    eventually_sync(lambda: newest(daemon, "web/b")["consumers"]["databases"] is not None, timeout=60)
    assert not newest(daemon, "web/b")["consumers"]["databases"]["concerned"], "its filter lets nothing of it through"

    eventually_sync(lambda: daemon.consumer("failing")["failures"] > 0, timeout=60)
    (tmp_path / "fails").unlink()
    eventually_sync(lambda: newest(daemon, "web/b")["consumers"]["failing"] is not None, timeout=60)
    assert newest(daemon, "web/b")["consumers"]["failing"]["failures"] > 0
    eventually_sync(
        lambda: counted(daemon, "failing") == counted(daemon, "haproxy") == 1, "only the listing is left out"
    )
    assert counted(daemon, "databases") == 0


def test_the_command_lists_the_changes(daemon: Daemon, etcd: EmbeddedEtcd) -> None:
    etcd.ctl("put", "/services/web/a", "127.0.0.1:1009")
    etcd.ctl("put", "/services/db/bad", "nonsense")
    etcd.ctl("put", "/services/cache/c", "127.0.0.1:1003")
    newest(daemon, "cache/c")
    eventually_sync(lambda: newest(daemon, "cache/c")["consumers"]["haproxy"] is not None, timeout=60)
    listed = history(daemon)
    assert (listed.returncode, listed.stderr) == (0, "")
    header, first, *rest = listed.stdout.splitlines()
    assert header.split() == ["TIME", "REVISION", "CHANGE", "APPLIED"]
    assert "= first listing: 1 backends" in first
    assert "haproxy" in first
    assert "~ web/a address 127.0.0.1:1001 -> 127.0.0.1:1009" in rest[0]
    assert "! db/bad" in rest[1]
    assert "+ cache/c 127.0.0.1:1003" in rest[2]
    of_web = json.loads(history(daemon, "--service", "web", "--json").stdout)
    assert [each["changes"][0]["mark"] for each in of_web["changes"]] == ["~", "+"]
    assert len(json.loads(history(daemon, "--json", "--limit", "1").stdout)["changes"]) == 1


@pytest.mark.parametrize("limit", ["-1", "501", "x", "9" * 5000])
def test_a_wrong_limit_is_refused(daemon: Daemon, limit: str) -> None:
    status, document = daemon.get(f"/api/history?limit={limit}")
    assert status == 400
    assert "limit has to be a whole number from 0 to 500" in document["error"]


def test_without_a_daemon_the_command_says_what_to_do(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = warm.run("history", "--admin", address, "--config", "/dev/null", env=os.environ, timeout=within(60))
    assert done.returncode == 1
    assert f"no daemon answers at {address}" in done.stderr
    assert "--admin" in done.stderr
