"""The fleet: daemons that announce themselves in real etcd, and tell of each other."""

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Starter
from etcds import etcd
from fleets import Fleet, address, await_states, record, rows, run_fleet
from hostile import endless_body, listening, response

from discovery.admin.credentials import challenge
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

__all__ = ["etcd"]


@pytest.fixture
def fleet(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> Fleet:
    return Fleet(tmp_path, start_daemon, etcd)


def test_each_daemon_tells_of_all(fleet: Fleet) -> None:
    one, two, three = fleet("one"), fleet("two"), fleet("three")
    well = {each.admin: "ok" for each in (one, two, three)}
    for each in (one, two, three):
        told = await_states(each, well)
        assert [row["address"] for row in told.values() if row["own"]] == [each.admin]
    fleet.etcd.ctl("put", f"{fleet.top}/services/web/1", "10.0.0.1:80")
    eventually_sync(lambda: all(row["backends"] == 1 for row in rows(one).values()), timeout=60)
    row = rows(one)[two.admin]
    assert (row["machine"], row["run_dir"]) == (socket.gethostname(), str(two.run_dir))
    assert (row["roles"], row["registry"], row["connected"]) == (["consumer"], fleet.registry, True)
    eventually_sync(lambda: rows(one)[two.admin]["applied_revision"] == row["revision"], timeout=60)

    Path(fleet.ill("two")).touch()
    told = await_states(one, {**well, two.admin: "failing"})
    assert told[two.admin]["problems"] == {"follows": "it has a fever"}
    text = run_fleet("--admin", one.admin, "--config", "/dev/null")
    assert (text.returncode, text.stderr) == (1, "")
    assert "follows: it has a fever" in text.stdout
    Path(fleet.ill("two")).unlink()
    await_states(one, well)
    done = run_fleet("--json", "--admin", one.admin, "--config", "/dev/null")
    assert done.returncode == 0
    assert {each["address"] for each in json.loads(done.stdout)["daemons"]} == set(well)

    assert two.stop() == 0
    await_states(one, {one.admin: "ok", three.admin: "ok"})
    assert len(fleet.keys()) == 2, "a daemon that ends withdraws its record"
    three.process.send_signal(signal.SIGKILL)
    told = await_states(one, {one.admin: "ok", three.admin: "unreachable"})
    assert told[three.admin]["reason"] == "connection refused"


@pytest.mark.exhaustive
def test_a_daemon_that_stands_still_is_told_and_a_dead_one_is_given_up(fleet: Fleet) -> None:
    one, two = fleet("one"), fleet("two")
    await_states(one, {one.admin: "ok", two.admin: "ok"})
    two.process.send_signal(signal.SIGSTOP)
    told = await_states(one, {one.admin: "ok", two.admin: "unreachable"})
    assert told[two.admin]["reason"] == "it has not answered within 3 s"
    two.process.send_signal(signal.SIGCONT)
    await_states(one, {one.admin: "ok", two.admin: "ok"})
    two.process.send_signal(signal.SIGKILL)
    await_states(one, {one.admin: "ok"})


def test_daemons_with_a_token_tell_those_alone_that_have_it(fleet: Fleet) -> None:
    ours, theirs = fleet.directory / "token", fleet.directory / "other"
    for path, letter in ((ours, "x"), (theirs, "y")):
        path.write_text(letter * 40)
        path.chmod(0o600)
    one, two = fleet("one", admin_token_file=str(ours)), fleet("two", admin_token_file=str(ours))
    three, open_ = fleet("three", admin_token_file=str(theirs)), fleet("open")
    line = ("--admin", one.admin, "--config", fleet.config("one"), "--json")
    states = {one.admin: "ok", two.admin: "ok", three.admin: "unreachable", open_.admin: "unreachable"}

    def told() -> dict[str, dict[str, Any]]:
        return {each["address"]: each for each in json.loads(run_fleet(*line).stdout)["daemons"]}

    eventually_sync(lambda: {address: each["state"] for address, each in told().items()} == states, timeout=60)
    found = told()
    assert found[three.admin]["reason"].startswith("it refuses the token of this daemon")
    assert found[open_.admin]["reason"].startswith("it does not ask for the token of the fleet")
    await_states(open_, {each: "ok" if each == open_.admin else "unreachable" for each in states})
    assert all(letter * 40 not in each.log for each in (one, two, three, open_) for letter in "xy")
    assert one.get("/api/daemon")[0] == one.get("/api/fleet")[0] == 401


async def test_a_hostile_record_learns_no_token_and_harms_its_own_row(fleet: Fleet) -> None:
    token = fleet.directory / "token"
    token.write_text("x" * 40)
    token.chmod(0o600)
    one, two = fleet("one", admin_token_file=str(token)), fleet("two", admin_token_file=str(token))
    refusal = response(b"{}", "401 Unauthorized", WWW_Authenticate=challenge("n0nce"))
    redirect = response(b"", "302 Found", Location=f"http://{two.admin}/api/daemon")
    async with listening(refusal) as asks, listening(redirect) as redirects, listening(endless_body) as endless:
        machine = socket.gethostname()
        for number, listener in enumerate((asks, redirects, endless)):
            await asyncio.to_thread(fleet.put, f"{number:016x}", record(listener.port, machine=machine))
        outside = record(9, host="192.0.2.1")
        await asyncio.to_thread(fleet.put, "f" * 16, outside)
        hostile = [f"127.0.0.1:{each.port}" for each in (asks, redirects, endless)] + ["192.0.2.1:9"]
        states = {one.admin: "ok", two.admin: "ok", **dict.fromkeys(hostile, "unreachable")}
        line = ("--admin", one.admin, "--config", fleet.config("one"), "--json")

        async def told() -> bool:
            done = await asyncio.to_thread(run_fleet, *line)
            return {each["address"]: each["state"] for each in json.loads(done.stdout)["daemons"]} == states

        await eventually_async(told)
        for listener in (asks, redirects, endless):
            assert listener.text.startswith("GET /api/daemon HTTP/1.1")
            assert "x" * 40 not in listener.text
        assert "Discovery-HMAC" in asks.text, "a proof, of use at its own address alone"
        assert all("authorization" not in listener.text.lower() for listener in (redirects, endless))


async def eventually_async(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a coroutine returns True."""
    async with asyncio.timeout(within(60)):
        while not await true():  # noqa: ASYNC110 - other processes wake no loop
            await asyncio.sleep(0.1)


def test_a_record_that_is_not_valid_is_told_with_its_reason(fleet: Fleet) -> None:
    one = fleet("one")
    await_states(one, {one.admin: "ok"})
    fleet.put("0123456789abcdef", "nonsense")
    fleet.put("not-an-id", record(1))
    eventually_sync(lambda: len(one.get("/api/fleet")[1]["invalid"]) == 2, timeout=60)
    told = {each["key"]: each["reason"] for each in one.get("/api/fleet")[1]["invalid"]}
    assert "HOST:PORT" in told["daemons/0123456789abcdef"]
    assert told["daemons/not-an-id"] == "the id is not 16 hexadecimal digits"
    assert rows(one).keys() == {one.admin}
    done = run_fleet("--admin", one.admin, "--config", "/dev/null")
    assert done.returncode == 1
    assert "invalid record daemons/not-an-id: the id is not" in done.stdout


def test_a_successor_stays_announced_and_a_reload_ends_it(fleet: Fleet) -> None:
    at = address()
    first, watcher = fleet("one", admin=at), fleet("two")
    await_states(watcher, {at: "ok", watcher.admin: "ok"})
    before = fleet.keys()
    second = fleet.start(
        *("--registry", fleet.registry, "--config", fleet.config("one"), "--replace"), admin=at, run_dir=first.run_dir
    )
    assert first.process.wait(60) == 0
    assert fleet.keys() == before
    since = rows(watcher)[at]["since"]
    eventually_sync(lambda: second.is_ready() and rows(watcher)[at]["state"] == "ok", timeout=60)
    eventually_sync(lambda: rows(watcher)[at]["since"] >= since, timeout=60)
    assert fleet.keys() == before

    config = Path(fleet.config("one"))
    config.write_text(config.read_text().replace("announce = true", "announce = false"))
    await_states(watcher, {watcher.admin: "ok"})
    assert second.get("/api/fleet")[1]["not_announced"] == "announce is false"
    assert rows(second).keys() == {watcher.admin}, "it still tells of the others"


def test_without_a_daemon_the_registry_alone_is_read(fleet: Fleet) -> None:
    one = fleet("one")
    await_states(one, {one.admin: "ok"})
    line = ("--registry", fleet.registry, "--config", fleet.config("one"), "--admin", address())
    done = run_fleet("--json", *line)
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["daemons"]
    assert (row["address"], row["state"]) == (one.admin, "unreachable")
    text = run_fleet(*line)
    assert "not known: how the daemons are: no daemon answers at" in text.stderr
    assert one.admin in text.stdout


def test_a_prefix_that_overlaps_with_the_services_is_refused(fleet: Fleet) -> None:
    for prefix in (f"{fleet.top}/services", f"{fleet.top}/services/daemons", fleet.top):
        daemon = fleet("wrong", fleet_prefix=prefix)
        assert daemon.process.wait(60) == 2
        assert f"fleet_prefix {prefix} overlaps with {fleet.top}/services" in daemon.log
