"""`discovery explain`: in each situation the right reason, from a daemon on real etcd."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import warm
from daemons import Daemon, RecordFiles, Starter
from etcds import etcd_of_its_own
from explained import CONFIG, PLUGIN, RECORDS

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

__all__ = ["etcd_of_its_own"]


class Situation(NamedTuple):
    """A record, whether it is used, and the reason that has to be among those told: kind, instance, words."""

    key: str
    used: bool
    kind: str | None
    instance: str | None = None
    words: str = ""


SITUATIONS = (
    Situation("web/ok", True, "filtered", "blue", "colour=blue"),
    Situation("web/blue", True, None),
    Situation("web/checked", True, None),
    Situation("web/absent", False, "absent", None, "no record web/absent at revision"),
    Situation("web/bad", False, "rejected", None, "HOST:PORT"),
    Situation("web/odd", True, "field-ignored", None, "haproxy_server_options"),
    Situation("web/taken", True, "key-refused", "finds", "web/taken"),
    Situation("web/fails", False, "check-failing", "finds", "it says failing"),
    Situation("web/silent", False, "unchecked", "finds", "not checked yet"),
    Situation("web/drains", False, "draining"),
    Situation("web/drained", False, "draining", None, "it says draining"),
    Situation("web/zero", False, "weight-zero"),
    Situation("last/drains", True, "draining", "names", "every backend of the service drains"),
    Situation("last/drains", True, "draining", "all", "it gets no new work"),
    Situation("web/named", False, "unresolvable", None, "nowhere.invalid"),
    Situation("web/down", False, "down", "all", "layer 4 timeout"),
    Situation("web/left-out", False, "filtered", "all", "no place"),
    Situation("web/no-name", False, "filtered", "all", "it has no name here"),
    Situation("web/refuses", False, "check-failing", "finds", "connection refused"),
    Situation("plane/dead", True, "down", "edge", "HAProxy's check: L4CON"),
    Situation("web/ok", True, "filtered", "edge", "no place"),
    Situation("web/ok", True, "filtered", "names", "plane, last"),
    Situation("late/1", True, "apply-failing", "failing", "the disk is full"),
    Situation("late/1", True, "behind", "slow", "the consumer is applying"),
    Situation("late/1", True, "filtered", "blue", "the services web"),
    Situation("web/ok", True, "plugin-broken", "broken", "cannot"),
)


class World(NamedTuple):
    daemon: Daemon
    etcd: EmbeddedEtcd

    def explain(self, key: str) -> dict[str, Any]:
        service, _, id_ = key.partition("/")
        status, document = self.daemon.get(f"/api/explain?service={service}&id={id_}")
        assert status == 200
        (record,) = document["records"]
        assert record["key"] == key
        return dict(record)


def faults(world: World, situation: Situation) -> list[str]:
    """Return what the daemon tells differently."""
    record = world.explain(situation.key)
    told = [(each["kind"], each["instance"], each["text"]) for each in record["reasons"]]
    right = situation.kind is None or any(
        (kind, instance) == (situation.kind, situation.instance) and situation.words in text
        for kind, instance, text in told
    )
    return [] if right and record["used"] is situation.used else [f"{situation}: used={record['used']} {told}"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run("explain", "--config", "/dev/null", *arguments, env=os.environ, timeout=within(60))


@contextmanager
def registered_by_another(tmp_path: Path, etcd: EmbeddedEtcd) -> Iterator[None]:
    """While another live owner has the record web/taken."""
    line = ["register", "web", "10.0.0.1:80", "--id", "taken", "--registry", etcd.url, "--check", "none"]
    line += ["--run-dir", str(tmp_path / "another"), "--config", "/dev/null"]
    with (tmp_path / "another.log").open("wb") as log:
        other = warm.start(*line, env=os.environ, stdout=log, stderr=log)
    try:
        eventually_sync(lambda: "web/taken" in etcd.ctl("get", "--keys-only", "/services/web/taken"), timeout=60)
        yield
    finally:
        other.terminate()
        other.wait(within(20))


@pytest.fixture
def world(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> Iterator[World]:
    require_program("haproxy")
    plugin, broken, config = tmp_path / "staged.py", tmp_path / "broken.py", tmp_path / "discovery.toml"
    plugin.write_text(PLUGIN)
    broken.write_text("raise RuntimeError('it cannot be loaded')")
    fails, blocks = tmp_path / "fails", tmp_path / "blocks"
    config.write_text(
        CONFIG.format(plugin=plugin, broken=broken, fails=fails, blocks=blocks, port=free_port(), dns=free_port())
    )
    others = {"plane/dead": "127.0.0.1:1", "last/drains": RECORDS["web/drains"]}
    for key, value in (RECORDS | others).items():
        etcd.ctl("put", f"/services/{key}", value)
    with registered_by_another(tmp_path, etcd):
        daemon = start_daemon("--registry", etcd.url, "--config", str(config))
        eventually_sync(
            lambda: all(each["applies"] for each in daemon.get("/api/consumers")[1]["consumers"]), timeout=60
        )
        fails.touch()
        blocks.touch()
        etcd.ctl("put", "/services/late/1", "10.0.0.1:80")
        yield World(daemon, etcd)
        blocks.unlink()


def test_the_right_reason_in_each_situation(world: World) -> None:
    def told_rightly() -> bool:
        assert [fault for each in SITUATIONS for fault in faults(world, each)] == []
        return True

    eventually_sync(told_rightly, "the right reasons", timeout=60)
    fails = next(each for each in world.explain("web/fails")["reasons"] if each["kind"] == "check-failing")
    assert fails["seconds"] >= 0, "since when is told"

    ok = {each["consumer"]: each for each in world.explain("web/ok")["consumers"]}
    assert ok.keys() == {"all"}
    assert (ok["all"]["live"], ok["all"]["rendered"]) == (True, ["server ok 10.0.0.1:80"])
    late = {each["consumer"]: each for each in world.explain("late/1")["consumers"]}
    assert {name: each["live"] for name, each in late.items()} == {"all": True, "failing": False, "slow": False}
    assert 0 <= late["all"]["seconds"] < within(60)
    assert late["all"]["revision"] > late["failing"]["revision"]

    world.etcd.ctl("put", "/services/web/ok", "10.0.0.1:81")
    eventually_sync(lambda: world.explain("web/ok")["backend"]["port"] == 81, timeout=60)
    eventually_sync(lambda: world.explain("web/ok")["consumers"][0]["live"], timeout=60)
    assert world.explain("web/ok")["consumers"][0]["seconds"] < within(60)

    using = {each["consumer"]: each["used"] for each in world.explain("plane/dead")["consumers"]}
    assert using == {"all": True, "edge": False, "names": True}
    last = command("last", "--admin", world.daemon.admin).stdout
    assert "last/drains 10.0.0.1:80 draining: used by names, but not by all (draining)\n" in last

    text = command("web", "--admin", world.daemon.admin)
    assert text.returncode == 0
    assert "web/ok 10.0.0.1:81: used" in text.stdout
    assert "web/bad: not used\n  rejected: " in text.stdout
    assert "    server ok 10.0.0.1:81\n" in text.stdout
    keys = [
        each["key"] for each in json.loads(command("web", "--json", "--admin", world.daemon.admin).stdout)["records"]
    ]
    assert keys == sorted(
        {*RECORDS, *(f"web/{id_}" for id_ in ("checked", "drained", "fails", "refuses", "silent", "taken"))}
    )


def test_what_is_held_and_what_cannot_be_known(world: World) -> None:
    eventually_sync(lambda: world.explain("web/ok")["used"], timeout=60)
    world.etcd.kill()
    eventually_sync(lambda: not faults(world, Situation("web/ok", True, "stale")), timeout=60)
    told = command("web/ok", "--admin", world.daemon.admin)
    assert (told.returncode, "  stale for " in told.stdout) == (0, True), "the daemon answers, whatever it says"
    world.etcd.wipe()
    world.etcd.start()
    held = Situation("web/ok", True, "held", None, "after a reset")
    eventually_sync(lambda: not faults(world, held), "a held record", timeout=60)


def test_without_a_daemon_the_registry_alone_is_told_of(file_registry: RecordFiles) -> None:
    url, write = file_registry
    for key, value in RECORDS.items():
        write(key, value)
    address = f"127.0.0.1:{free_port()}"
    alone = ("--admin", address, "--registry", url)
    # A bad file is told once it is old enough not to be half written.
    eventually_sync(lambda: "web/bad" in command("web", *alone).stdout, "the bad record to be told of", timeout=60)
    done = command("web", "--json", *alone)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    told = {each["key"]: (each["used"], [reason["kind"] for reason in each["reasons"]]) for each in document["records"]}
    assert told == {
        "web/ok": (None, []),
        "web/bad": (False, ["rejected"]),
        "web/odd": (None, ["field-ignored"]),
        "web/blue": (None, []),
        "web/drains": (None, ["draining"]),
        "web/zero": (None, ["weight-zero"]),
        "web/named": (None, ["unresolvable"]),
        "web/down": (None, []),
        "web/left-out": (None, []),
        "web/no-name": (None, []),
    }
    text = command("web/ok", "--admin", address, "--registry", url)
    assert (text.returncode, text.stdout) == (1, "web/ok 10.0.0.1:80: in the registry\n")
    assert f"not known: whether a consumer uses it: no daemon answers at {address}" in text.stderr
    nothing = command("web", "--admin", address, "--registry", f"{url}/nowhere", "--timeout", "1")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert f"no daemon answers at {address}" in nothing.stderr
    assert f"nothing is known of the registry: {url}/nowhere" in nothing.stderr


def test_each_of_two_daemons_tells_of_its_own_consumers(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    plugin = tmp_path / "staged.py"
    plugin.write_text(PLUGIN)
    write("web/ok", "10.0.0.1:80")
    daemons = {}
    for name, service in (("one", "web"), ("other", "db")):
        config = tmp_path / f"{name}.toml"
        config.write_text(f'[consumers.staged]\nplugin = "{plugin}"\nfilter = {{ services = "{service}" }}\n')
        daemons[name] = start_daemon("--registry", url, "--config", str(config))
    for each in daemons.values():
        eventually_sync(each.is_ready, timeout=60)
    told = {name: command("web/ok", "--admin", each.admin) for name, each in daemons.items()}
    assert {name: each.returncode for name, each in told.items()} == {"one": 0, "other": 0}
    assert told["one"].stdout.startswith("web/ok 10.0.0.1:80: used\n  staged: live at revision ")
    assert told["other"].stdout.startswith("web/ok 10.0.0.1:80: not used\n  staged: filtered: ")


def test_a_service_without_records_and_a_wrong_name(file_registry: RecordFiles) -> None:
    address = f"127.0.0.1:{free_port()}"
    none = command("web", "--admin", address, "--registry", file_registry[0])
    assert "no record of 'web'" in none.stderr
    assert command("We b", "--admin", address, "--registry", file_registry[0]).returncode == 2


def test_a_record_that_was_withdrawn_is_told_of_beside_those_that_are_there(
    tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd
) -> None:
    plugin, config = tmp_path / "staged.py", tmp_path / "discovery.toml"
    plugin.write_text(PLUGIN)
    config.write_text(f'[consumers.staged]\nplugin = "{plugin}"\n')
    etcd.ctl("put", "/services/web/stays", "10.0.0.1:80")
    etcd.ctl("put", "/services/web/goes", "10.0.0.2:80")
    daemon = start_daemon("--registry", etcd.url, "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    etcd.ctl("del", "/services/web/goes")
    removed = "web/goes: not used\n  absent for "
    eventually_sync(lambda: removed in command("web", "--admin", daemon.admin).stdout, "the removal", timeout=60)
    done = command("web", "--admin", daemon.admin)
    assert "it was removed, and had the address 10.0.0.2:80\n" in done.stdout
    assert "\nweb/stays 10.0.0.1:80: used\n" in done.stdout
    assert "ask it with --admin" in done.stderr
    assert "--admin" not in command("web/stays", "--admin", daemon.admin).stderr
