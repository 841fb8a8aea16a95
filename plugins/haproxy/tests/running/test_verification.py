"""Verification of the live servers: drift is put right, and what an operator has changed is kept."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from external_haproxy import ExternalProcess
from haproxy_driver import ConsumerDriver, Drive, assert_true, live_servers, reload_by_hand, wait_until_healthy, ways

from discovery import ApplyError, Backend
from discovery.testing import backend, eventually, within
from discovery.toolkit import cancel_and_wait
from discovery_haproxy.deployment.reloading import reload_through_master
from discovery_haproxy.limits import Limits
from discovery_haproxy.managed import target as managed
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api import verifying
from discovery_haproxy.runtime_api.live_servers import LiveServers
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states

Origins = tuple[Backend, ...]


@pytest.fixture
def drive(drive: Drive) -> Drive:
    """Return the usual function, with short pauses of the verification."""
    return partial(drive, limits=Limits(look=0.05))


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that gets an element with each look of a verification."""
    looks: list[None] = []
    look = verifying.Verifier._look

    async def counted_look(verifier: verifying.Verifier) -> None:
        try:
            await look(verifier)
        finally:
            looks.append(None)

    monkeypatch.setattr(verifying.Verifier, "_look", counted_look)
    return looks


async def command(driver: ConsumerDriver, text: str) -> None:
    """Send commands to the worker at once, as an operator does."""
    await ControlSocket(driver.run_dir / "stats.sock", master=False).send_once(text, within(5))


def drift(driver: ConsumerDriver) -> Mapping[str, float]:
    """Return the numbers of differences by kind, those that are not zero."""
    return {
        each.labels["kind"]: each.value for each in driver.consumer.metrics() if each.name == "drift" and each.value
    }


async def operator_changes(driver: ConsumerDriver) -> Mapping[str, str]:
    changes = (await driver.consumer.inspect())["operator_changes"]
    assert isinstance(changes, dict)
    return changes


async def test_drift_is_reported_and_put_right_without_a_reload(drive: Drive, origins: Origins, bind: str) -> None:
    first, second, third, fourth = origins
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(first, second, third)
        for text in (
            f"set server web/{first.id} addr 127.0.0.1 port {fourth.port}",
            f"set server web/{second.id} state maint; del server web/{second.id}",
            f"add server web/stranger 127.0.0.1:{fourth.port}; enable server web/stranger",
        ):
            before = drift(driver)
            await command(driver, text)
            await eventually(lambda before=before: drift(driver) != before, "the drift to be noticed")  # type: ignore[misc]
            await eventually(lambda: is_true(driver), "the servers to be as wanted")
        assert drift(driver).keys() == {"address", "membership"}
        assert driver.has_logged(f"is at 127.0.0.1 port {fourth.port}, not at 127.0.0.1 port {first.port}")
        assert (await driver.consumer.inspect())["last_drift"] == [
            f"web/stranger is there, at 127.0.0.1 port {fourth.port}"
        ]
        assert ways(driver) == {"runtime": 0, "reload": 0}
        assert (await driver.processes()).reloads == 0


async def test_after_a_reload_that_was_cancelled_the_servers_are_unknown(
    drive: Drive, origins: Origins, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloaded = asyncio.Event()
    looks = count_looks(monkeypatch)

    async def reload_and_wait(*arguments: Any, **more: Any) -> None:
        await reload_through_master(*arguments, **more)
        reloaded.set()
        await asyncio.Event().wait()

    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(origins[0])
        await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": bind, "balance": "leastconn"}}))
        with monkeypatch.context() as patch:
            patch.setattr(managed, "reload_through_master", reload_and_wait)
            applying = asyncio.create_task(driver.apply(*origins[1:]))
            await asyncio.wait_for(reloaded.wait(), within(10))
            await cancel_and_wait(applying)
        # HAProxy has the new servers, which are not to be replaced by those before the change.
        before = len(looks)
        await eventually(lambda: len(looks) >= before + 5, "some looks of the verification")
        assert not drift(driver)
        await driver.apply(*origins[1:])
        await assert_true(driver)
        assert not drift(driver)


async def test_servers_of_a_configuration_that_is_not_discoverys_are_left_alone(
    drive: Drive, external: ExternalProcess, origins: Origins, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count_looks(monkeypatch)
    own = external.config.read_text()
    external.config.unlink()  # the file is free to take
    options: dict[str, Any] = {"path": external.config, "stats_socket": external.stats_socket}
    options["command"] = ["kill", "-USR2", str(external.process.pid)]
    async with drive(services={"web": {"bind": bind}}, external=options, verify_interval="100ms") as driver:
        await driver.apply(origins[0])
        external.config.unlink()
        external.config.write_text(f"{own}backend web\n    server own 127.0.0.1:{origins[1].port}\n")
        await external.reload()
        await driver.consumer.health()
        before = len(looks)
        await eventually(lambda: len(looks) >= before + 5, "some looks of the verification")
        with pytest.raises(ApplyError, match="was not written by discovery"):
            await driver.apply(origins[0])
        assert not drift(driver)
        answer = await ControlSocket(external.stats_socket, master=False).server_states()
        assert [name for _, name in parse_states(answer)] == ["own"]


async def is_true(driver: ConsumerDriver) -> bool:
    try:
        await assert_true(driver)
    except AssertionError:
        return False
    return True


async def test_drift_that_the_runtime_api_cannot_repair_is_put_right_by_a_reload(
    drive: Drive, origins: Origins, bind: str
) -> None:
    first, second = origins[:2]
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(first, second)
        path = f"web/{first.id}"
        await command(driver, f"set server {path} state maint; del server {path}")
        await command(
            driver, f"add server {path} 127.0.0.1:{first.port} id 7 check; enable health {path}; enable server {path}"
        )
        await asyncio.wait_for(driver.apply_requested.wait(), within(20))
        await driver.apply_again()
        await assert_true(driver)
        assert ways(driver) == {"runtime": 0, "reload": 1}
        details = await driver.consumer.inspect()
        assert "has the id 7" in details["last_change"]["reason"]


async def test_what_an_operator_changes_is_listed_and_kept_over_a_reload_by_another_program(
    drive: Drive, origins: Origins, bind: str
) -> None:
    first, second, third, fourth = origins
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(first, second, third, fourth)
        await command(driver, f"set server web/{first.id} state maint; set server web/{second.id} weight 9")
        await command(driver, f"set server web/{third.id} state drain; disable health web/{fourth.id}")
        expected = {
            f"web/{first.id}": "in maintenance",
            f"web/{second.id}": "weight 9",
            f"web/{third.id}": "draining",
            f"web/{fourth.id}": "without checks",
        }
        await eventually(lambda: is_listed(driver, expected), "the changes to be listed")

        async def is_healthy() -> bool:
            health = await driver.consumer.health()
            return health.ok and health.detail.startswith("changed by an operator: web/")

        await eventually(is_healthy, "the changes in the health")

        [worker] = (await driver.processes()).workers
        await driver.control.send_once("reload", within(10))

        async def is_kept() -> bool:
            workers = (await driver.processes()).workers
            live = await live_servers(driver)
            return (
                bool(workers)
                and workers != (worker,)
                and live["web", first.id].removed
                and live["web", second.id].weight == 9
                and live["web", third.id].draining
                and not live["web", fourth.id].check_enabled
            )

        await eventually(is_kept, "the changes to be made again")
        await eventually(lambda: driver.has_logged("by another program"), "the other worker to be noticed")
        await eventually(lambda: is_listed(driver, expected), "the changes to be listed")
        assert not drift(driver)

        await command(driver, f"set server web/{first.id} state ready")
        del expected[f"web/{first.id}"]
        await eventually(lambda: is_listed(driver, expected), "the end to be noticed")
        # Another weight in the registry ends the manual weight.
        await driver.apply(first, backend(port=second.port, weight=5), third, fourth)
        del expected[f"web/{second.id}"]
        await eventually(lambda: is_listed(driver, expected), "the end to be noticed")
        assert (await live_servers(driver))["web", second.id].weight == 5


async def test_what_an_operator_changes_holds_from_the_first_moment_after_a_crash(
    drive: Drive, origins: Origins, bind: str
) -> None:
    first, second = origins[:2]
    path = f"web/{first.id}"
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(first, second)
        await command(driver, f"set server {path} state maint; set server {path} weight 9")
        await eventually(lambda: is_listed(driver, {path: "in maintenance, weight 9"}), "the change to be listed")
        await driver.apply(first, second, origins[2])  # the states that are kept outlive a change of other servers
        target = driver.consumer._target
        assert isinstance(target, managed.ManagedHAProxy)
        await target._activation.verifier.stop()  # what holds is not what a verification has put right
        master = driver.master
        os.kill(master, signal.SIGKILL)
        await eventually(lambda: driver.master != master, "another master")
        row = await eventually(lambda: live_server(driver, first), "the new worker to answer")
        assert (row.removed, row.weight) == (True, 9)
        await wait_until_healthy(driver)


async def test_a_maintenance_that_has_ended_does_not_return_with_a_reload_by_another_program(
    drive: Drive, origins: Origins, bind: str
) -> None:
    first, second = origins[:2]
    path = f"web/{first.id}"
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(first, second)
        await command(driver, f"set server {path} state maint")
        await eventually(lambda: is_listed(driver, {path: "in maintenance"}), "the change to be listed")
        assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": bind, "maxconn": 1000}}))
        await driver.apply_again()
        await command(driver, f"set server {path} state ready")
        await eventually(lambda: is_listed(driver, {}), "the end to be noticed")
        await reload_by_hand(driver)
        assert not (await live_servers(driver))["web", first.id].removed


async def live_server(driver: ConsumerDriver, of: Backend) -> LiveServer:
    return (await live_servers(driver))["web", of.id]


async def is_listed(driver: ConsumerDriver, expected: Mapping[str, str]) -> bool:
    return await operator_changes(driver) == expected


def sockets_of(external: ExternalProcess) -> dict[str, Any]:
    sockets = {"stats_socket": external.stats_socket, "master_socket": external.master_socket}
    return {"path": external.config, "adopt": True, **sockets}


async def test_what_an_operator_changes_in_an_external_haproxy_is_made_again_after_a_reload_by_another_program(
    drive: Drive, external: ExternalProcess, origins: Origins, bind: str
) -> None:
    first, second, third = origins[:3]
    stats, there = ControlSocket(external.stats_socket, master=False), sockets_of(external)
    async with drive(services={"web": {"bind": bind}}, external=there, verify_interval="100ms") as driver:
        await driver.apply(first, second, third)
        await stats.send_once(f"set server web/{first.id} state maint; set server web/{second.id} weight 9", within(5))
        await stats.send_once(f"set server web/{third.id} addr 127.0.0.1 port {first.port}", within(5))
        expected = {f"web/{first.id}": "in maintenance", f"web/{second.id}": "weight 9"}
        await eventually(lambda: is_listed(driver, expected), "the changes to be listed")
        await eventually(lambda: drift(driver) == {"address": 1}, "the drift to be put right")
        assert "changed by an operator: web/" in (await driver.consumer.health()).detail
        await external.reload()

        async def is_made_again() -> bool:
            live = parse_states(await stats.server_states())
            return live["web", first.id].removed and live["web", second.id].weight == 9

        await eventually(lambda: driver.has_logged("by another program"), "the other worker to be noticed")
        await eventually(is_made_again, "the changes to be made again")
        await eventually(lambda: is_listed(driver, expected), "the changes to be listed")


async def test_a_reload_by_another_program_amid_a_verification_ends_no_change_of_an_operator(
    drive: Drive, external: ExternalProcess, origins: Origins, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = origins[:2]
    stats, there = ControlSocket(external.stats_socket, master=False), sockets_of(external)
    expected = {f"web/{first.id}": "in maintenance"}
    reloads = [external.reload]
    read = LiveServers.read

    async def worker() -> str:
        info = await stats.send_once("show info", within(5))
        return next(line for line in info.splitlines() if line.startswith("Pid:"))

    async def reload_and_read(servers: LiveServers, names: Sequence[str]) -> list[str]:
        if reloads and servers.reports.operator:
            before = await worker()
            await reloads.pop()()

            async def is_replaced() -> bool:
                return await worker() != before

            await eventually(is_replaced, "the new worker to answer")
        return await read(servers, names)

    async with drive(services={"web": {"bind": bind}}, external=there, verify_interval="100ms") as driver:
        await driver.apply(first, second)
        monkeypatch.setattr(LiveServers, "read", reload_and_read)
        await stats.send_once(f"set server web/{first.id} state maint", within(5))
        await eventually(lambda: not reloads, "the reload during a verification")

        async def is_made_again() -> bool:
            return parse_states(await stats.server_states())["web", first.id].removed

        await eventually(is_made_again, "the change to be made again")
        await eventually(lambda: is_listed(driver, expected), "the change to be listed")


async def test_servers_are_verified_after_a_reload_of_discoverys_own(drive: Drive, origins: Origins, bind: str) -> None:
    path = f"web/{origins[0].id}"
    async with drive(services={"web": {"bind": bind}}, verify_interval="100ms") as driver:
        await driver.apply(*origins)
        await command(driver, f"set server {path} weight 9")
        await eventually(lambda: is_listed(driver, {path: "weight 9"}), "the change to be listed")
        await command(driver, f"set server {path} weight 1")
        for maxconn, states in enumerate(("maint", "drain"), 1000):
            await command(driver, f"set server {path} state ready; set server {path} state {states}")
            web = {"bind": bind, "maxconn": maxconn}
            assert await driver.consumer.reconfigure(driver.configured(services={"web": web}, verify_interval="1h"))
            await driver.apply_again()
            words = {"maint": "in maintenance", "drain": "draining"}[states]
            await eventually(lambda words=words: is_listed(driver, {path: words}), "the change to be listed")  # type: ignore[misc]


async def test_what_an_operator_changes_is_undone_on_request(drive: Drive, origins: Origins, bind: str) -> None:
    first, second, third = origins[:3]
    options = {"verify_interval": "100ms", "operator_changes": "undo"}
    async with drive(services={"web": {"bind": bind}}, **options) as driver:
        await driver.apply(first, second, third)
        await command(driver, f"set server web/{first.id} state maint; set server web/{second.id} weight 9")
        await command(driver, f"disable health web/{third.id}; set server web/{third.id} state drain")

        async def is_undone() -> bool:
            live = await live_servers(driver)
            changed = any(row.removed or row.draining or not row.check_enabled for row in live.values())
            told = driver.has_logged(f"web/{first.id} was changed by an operator: in maintenance")
            return told and not changed and live["web", second.id].weight == 1 and not await operator_changes(driver)

        await eventually(is_undone, "the changes to be undone, and told")


async def test_a_reload_by_another_program_with_an_earlier_file_is_noticed_and_put_right(
    drive: Drive, origins: Origins, bind: str
) -> None:
    def weighed(weight: int) -> Backend:
        return backend(port=origins[0].port, weight=weight)

    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(weighed(1), origins[1])
        config = driver.run_dir / "haproxy.cfg"
        earlier = config.read_text()
        await driver.apply(weighed(5), origins[2])
        now = config.read_text()
        config.write_text(earlier)
        await reload_by_hand(driver)
        config.write_text(now)
        await eventually(lambda: driver.has_logged("by another program"), "the other worker to be noticed")
        await eventually(lambda: is_true(driver), "the servers to be as wanted")
        assert (await live_servers(driver))["web", origins[0].id].weight == 5
        assert drift(driver) == {"membership": 2, "weight": 1}


async def test_a_reload_by_another_program_with_another_file_is_followed_by_a_reload(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(*origins[:2])
        config = driver.run_dir / "haproxy.cfg"
        served = config.read_text()
        other = served.replace("description cfg-", "description cfg-0").replace("retries 3", "retries 2")
        config.write_text(other)
        await driver.control.send_once("reload", within(10))
        await asyncio.wait_for(driver.apply_requested.wait(), within(20))
        await driver.apply_again()
        assert config.read_text() == served
        await assert_true(driver)
        assert "another configuration" in (await driver.consumer.inspect())["last_change"]["reason"]
