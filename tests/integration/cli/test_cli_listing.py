"""`discovery services` and `discovery watch`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, within

from .conftest import END, Start, World

B1 = {"service": "web", "id": "b1", "host": "10.0.0.1", "port": 80, "weight": 1, "state": "active", "labels": {}}
B2 = B1 | {"id": "b2", "host": "10.0.0.2", "weight": 7, "state": "draining", "labels": {"zone": "a b"}}


def fill(world: World) -> None:
    world.put("web/b1", "10.0.0.1:80")
    world.put("web/b2", json.dumps({k: B2[k] for k in ("host", "port", "weight", "state", "labels")} | {"owner": "me"}))
    world.put("web/bad", '{"host": "10.0.0.3", "port": 99999}')
    world.put("db/n", '{"host": "db.example", "port": 5432, "haproxy_server_options": "verify none"}')


def listing(start: Start, *arguments: str) -> tuple[int, list[str], str]:
    command = start("services", *arguments)
    lines = list(iter(command.line, END))
    return command.end(), lines, command.stderr


def test_services_as_json(start: Start, world: World) -> None:
    fill(world)
    code, lines, stderr = listing(start, "--json", "--registry", world.url)
    document = json.loads("\n".join(lines))
    assert (code, stderr) == (0, "")
    assert document.keys() == {"revision", "services", "rejected"}
    assert document["services"]["web"] == [B1 | {"owner": None}, B2 | {"owner": "me"}]
    assert [each["host"] for each in document["services"]["db"]] == ["db.example"]
    ignored, bad = document["rejected"]
    assert (ignored["key"], ignored["field"]) == ("db/n", "haproxy_server_options")
    assert (bad["key"], bad["field"]) == ("web/bad", None)
    assert "99999" in bad["reason"]


def test_services_as_plain_lines_with_the_rejected_below(start: Start, world: World) -> None:
    fill(world)
    code, lines, stderr = listing(start, "--registry", world.url)
    assert (code, stderr) == (0, "")
    assert lines[:4] == [
        "SERVICE  ID  ADDRESS          WEIGHT  STATE     LABELS",
        "db       n   db.example:5432  1       active",
        "web      b1  10.0.0.1:80      1       active",
        "web      b2  10.0.0.2:80      7       draining  zone=a b",
    ]
    assert lines[4:6] == ["", "Rejected records (2):"]
    assert lines[6].startswith("  db/n: haproxy_server_options ignored: ")
    assert lines[7].startswith("  web/bad: the port 99999")


def test_services_of_one_name(start: Start, file_world: World) -> None:
    fill(file_world)
    _, lines, _ = listing(start, "db", "--json", "--registry", file_world.url)
    document = json.loads("\n".join(lines))
    assert list(document["services"]) == ["db"]
    assert [each["key"] for each in document["rejected"]] == ["db/n"]
    code, lines, stderr = listing(start, "nope", "--registry", file_world.url)
    assert (code, lines) == (0, [])
    assert stderr == f"discovery: no backends of 'nope' in {file_world.url}\n"


def test_records_below_what_is_no_name_of_a_service_are_listed(start: Start, etcd_world: World) -> None:
    etcd_world.put("we/b/x", "10.0.0.1:80")
    etcd_world.put("we b/x", "10.0.0.1:80")
    code, lines, _ = listing(start, "--json", "--registry", etcd_world.url)
    assert code == 0
    assert [each["key"] for each in json.loads("\n".join(lines))["rejected"]] == ["we b/x", "we/b/x"]


def test_a_hostile_key_cannot_drive_the_terminal(start: Start, etcd_world: World) -> None:
    etcd_world.put("web/\x1b[31m\nweb  b9", "10.0.0.1:80")
    _, lines, _ = listing(start, "--registry", etcd_world.url)
    assert len(lines) == 2
    assert lines[1].startswith("  web/\\x1b[31m\\nweb  b9: ")


def test_services_of_a_registry_that_does_not_answer(start: Start) -> None:
    port = free_port()
    code, lines, stderr = listing(start, "--registry", f"etcd://me:secret@127.0.0.1:{port}", "--timeout", "1")
    assert (code, lines) == (1, [])
    assert stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in stderr
    assert "secret" not in stderr


def test_watch_tells_each_change_set_in_one_line(start: Start, world: World) -> None:
    watch = start("watch", "--json", DISCOVERY_REGISTRY=world.url)
    first = watch.json()
    assert first == {"revision": first["revision"], "reset": True, "added": [], "updated": [], "removed": []}
    world.put("web/b1", "10.0.0.1:80")
    added = watch.json()
    assert added == {"revision": added["revision"], "reset": False, "added": [B1], "updated": [], "removed": []}
    world.put("web/bad", "nonsense")
    eventually_sync(lambda: "rejected web/bad: " in watch.stderr)
    world.put("web/b1", "10.0.0.9:80")
    heavier = B1 | {"host": "10.0.0.9"}
    updated = watch.json()
    assert (updated["added"], updated["updated"], updated["removed"]) == ([], [heavier], [])
    world.put("web/b1", "10.0.0.9:nonsense")
    spoilt = watch.json()
    assert (spoilt["added"], spoilt["updated"], spoilt["removed"]) == ([], [], [heavier])
    world.put("web/b2", "10.0.0.2:80")
    assert [each["id"] for each in watch.json()["added"]] == ["b2"]
    world.delete("web/b2")
    last = watch.json()
    assert [each["id"] for each in last["removed"]] == ["b2"]
    assert last["revision"] > spoilt["revision"] > updated["revision"] > added["revision"] > first["revision"]
    assert watch.stop(signal.SIGINT) == 0
    assert watch.line() == END


def test_watch_as_text(start: Start, file_world: World) -> None:
    file_world.put("web/b1", "10.0.0.1:80")
    watch = start("watch", "--registry", file_world.url)
    assert watch.line().startswith("= revision ")
    assert watch.line() == "+ web/b1 10.0.0.1:80"
    file_world.put("web/b1", '{"host": "10.0.0.1", "port": 80, "weight": 5, "state": "draining", "labels": {"a": "b"}}')
    assert watch.line() == "~ web/b1 10.0.0.1:80 weight=5 draining a=b"
    file_world.delete("web/b1")
    assert watch.line().startswith("- web/b1 ")
    assert watch.stop() == 0


def test_watch_finds_the_member_that_lives(start: Start, etcd: EmbeddedEtcd) -> None:
    watch = start("watch", "--json", "--registry", f"etcd://127.0.0.1:{free_port()},{etcd.endpoint}/services")
    assert watch.json()["reset"] is True


def test_watch_outlives_the_registry_and_tells_what_came_of_it(start: Start) -> None:
    with EmbeddedEtcd() as etcd:
        ttl = f"{within(2):g}"
        registered = start("register", "web", "10.0.0.1:80", "--id", "b1", "--ttl", ttl, "--registry", etcd.url)
        assert registered.line().startswith("registered web/b1")
        watch = start("watch", "--json", "--registry", etcd.url)
        assert watch.json()["added"] == [B1]
        # Otherwise the registration, made again, may stand at the same revision again: then nothing has changed.
        passing = start("register", "web", "10.0.0.2:80", "--id", "b2", "--registry", etcd.url)
        assert passing.line().startswith("registered web/b2")  # a registration that was never reported exits with 143
        assert [record["id"] for record in watch.json()["added"]] == ["b2"]
        assert passing.stop() == 0
        assert [record["id"] for record in watch.json()["removed"]] == ["b2"]
        etcd.kill()
        eventually_sync(lambda: "the registry cannot be followed: " in watch.stderr)
        etcd.wipe()
        etcd.start()
        # The cluster has come back empty: the registration, and so the listing, begin again.
        told = watch.json()
        assert told["reset"] is True
        assert told["removed"] == ([] if told["added"] else [B1])
        if not told["added"]:
            assert watch.json()["added"] == [B1]
        eventually_sync(lambda: "following the registry again" in watch.stderr)
        eventually_sync(lambda: "registered" in registered.stderr)
        assert registered.process.poll() is None
        etcd.kill()
        assert registered.stop() == 0
        assert watch.stop() == 0


def test_watch_ends_when_nobody_reads_it(start: Start, file_world: World, tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    with stderr.open("wb") as errors:
        watch = subprocess.Popen(
            [sys.executable, "-m", "discovery", "watch", "--registry", file_world.url],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert watch.stdout is not None
    os.read(watch.stdout.fileno(), 1)
    watch.stdout.close()
    assert watch.wait(within(20)) == 0
    said = [line for line in stderr.read_text().splitlines() if "no backends in" not in line]  # said on a slow machine
    assert said == []
