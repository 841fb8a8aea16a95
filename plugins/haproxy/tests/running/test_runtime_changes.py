"""Changes of servers through the runtime API: in the same worker, without a lost request, and true to the file."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from haproxy_driver import (
    ConsumerDriver,
    Drive,
    StartLoad,
    assert_true,
    live_servers,
    same_worker,
    wait_until_served,
    ways,
)
from haproxy_web import Fetch, StartOrigin

from discovery import ApplyError, Backend, State
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.limits import Limits
from discovery_haproxy.runtime_api import costs

Origins = tuple[Backend, ...]
SECTION = "backend {{ service.name }}\n    default-server inter 200ms fall 2 rise 2 check\n"
OWN_TEMPLATE = f"""\
{{% extends "builtin/haproxy.cfg.j2" %}}
{{% block service %}}
{SECTION}
{{% for backend in service.backends %}}
    server {{{{ backend.id }}}} {{{{ backend.address }}}} weight {{{{ backend.weight }}}}
{{%- if backend.labels.ca %}} ssl verify required ca-file {{{{ backend.labels.ca }}}}{{% endif +%}}
{{% endfor %}}
{{% endblock %}}
"""


async def test_changes_of_servers_under_load_keep_the_worker_and_lose_no_request(
    drive: Drive, origins: Origins, load: StartLoad, fetch: Fetch, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        first, second, third, fourth = origins
        await driver.apply(first, second)
        kept, closed = load(f"http://{bind}/"), load(f"http://{bind}/", keep_alive=False)
        moved = backend(id=first.id, port=fourth.port)
        snapshots = [
            (first, second, third),
            (first, backend(port=second.port, state=State.DRAINING), third),
            (first, backend(port=second.port, weight=7), third),
            (first, third),
            (moved, third),
            (moved,),
            (first, second),
        ]
        async with same_worker(driver):
            for _ in range(5):
                for snapshot in snapshots:
                    await driver.apply(*snapshot)
                    await assert_true(driver)
                    expected = {str(each.port) for each in snapshot if each.state is State.ACTIVE}
                    assert {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(12)} <= expected
        counts = [await asyncio.to_thread(each.stop) for each in (kept, closed)]
        assert [failed for _, failed in counts] == [0, 0]
        assert all(requests > 300 for requests, _ in counts)
        assert ways(driver) == {"runtime": 35, "reload": 0}
        assert driver.has_logged("'way': 'runtime'")
        assert driver.has_logged("web: 1 server added")


async def test_an_own_template_is_changed_at_run_time(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text(OWN_TEMPLATE)
    async with drive(services={"web": {"bind": bind}}, template=template) as driver:
        await driver.apply(origins[0])
        async with same_worker(driver):
            for number in (1, 2, 3, 0):
                await driver.apply(origins[number])
                await assert_true(driver)
                await wait_until_served(fetch, bind, origins[number])
        template.write_text(OWN_TEMPLATE.replace("fall 2", "fall 3"))
        await driver.apply(origins[1])
        await assert_true(driver)
        assert ways(driver) == {"runtime": 4, "reload": 1}
        assert driver.has_logged("the line 'default-server' of backend web changes")


async def test_a_refused_command_is_followed_by_a_reload(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str, tmp_path: Path
) -> None:
    template, authority = tmp_path / "mine.cfg.j2", tmp_path / "ca.pem"
    template.write_text(OWN_TEMPLATE)
    trustme.CA().cert_pem.write_to_path(str(authority))
    async with drive(services={"web": {"bind": bind}}, template=template) as driver:
        await driver.apply(*origins[:2])
        # A running HAProxy reads no file of certificate authorities.
        await driver.apply(*origins[1:3], backend(id="tls", port=origins[3].port, labels={"ca": str(authority)}))
        assert ways(driver) == {"runtime": 0, "reload": 1}
        assert driver.has_logged("HAProxy refuses add server web/tls")
        await assert_true(driver)
        assert {name for _, name in await live_servers(driver)} == {origins[1].id, origins[2].id, "tls"}
        await driver.apply(*origins[1:3])
        await assert_true(driver)
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_weights_and_removals_at_run_time_survive_a_reload(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    def weighed(weight: int) -> Backend:
        return backend(port=origins[0].port, weight=weight)

    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(weighed(1), origins[1])
        for weights in ((0, 1), (5, 0), (5, 5)):
            for weight in weights[:-1]:
                await driver.apply(weighed(weight), origins[1])
            # Another option makes this change a reload.
            options = {"bind": bind, "maxconn": 1000 + sum(weights)}
            assert await driver.consumer.reconfigure(driver.configured(services={"web": options}))
            await driver.apply(weighed(weights[-1]), origins[1])
            await assert_true(driver)
        await driver.apply(weighed(1))
        assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": bind}}))
        await driver.apply(weighed(1), origins[1])
        await assert_true(driver)


async def test_a_weight_that_an_operator_has_set_survives_changes_and_reloads(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(backend(port=origins[0].port, weight=3))
        await driver.apply(backend(port=origins[0].port, weight=4))
        await driver.control.send_once(f"@1 set server web/{origins[0].id} weight 9", 5)
        async with same_worker(driver):
            await driver.apply(backend(port=origins[0].port, weight=4), origins[1])
        assert (await live_servers(driver))["web", origins[0].id].weight == 9
        assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": bind, "maxconn": 1000}}))
        await driver.apply_again()
        assert (await live_servers(driver))["web", origins[0].id].weight == 9


async def test_a_new_server_that_is_dead_gets_no_request(
    drive: Drive, origins: Origins, fetch: Fetch, origin: StartOrigin, bind: str
) -> None:
    port = free_port()
    async with drive(services={"web": {"bind": bind, "check": {"interval": "100ms"}}}) as driver:
        await driver.apply(origins[0])
        await driver.apply(origins[0], backend(id="dead", port=port))
        assert not (await live_servers(driver))["web", "dead"].up
        alive = origin("alive")
        await driver.apply(origins[0], backend(id="dead", port=alive.port))
        assert (await live_servers(driver))["web", "dead"].up
        answers = {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(10)}
        assert answers == {str(origins[0].port), "alive"}
        assert ways(driver) == {"runtime": 2, "reload": 0}


async def test_the_check_of_haproxy_decides_where_it_is_more_than_a_connection(
    drive: Drive, origins: Origins, bind: str
) -> None:
    web = {"bind": bind, "check": {"interval": "100ms"}, "backend_lines": ["option tcp-check"]}
    async with drive(services={"web": web}) as driver:
        await driver.apply()
        # Nothing else serves: HAProxy serves a new server after a reload until a check fails.
        await driver.apply(origins[0])
        assert ways(driver) == {"runtime": 0, "reload": 1}
        await driver.apply(*origins[:2])
        assert ways(driver) == {"runtime": 1, "reload": 1}

        async def is_up() -> bool:
            return (await live_servers(driver))["web", origins[1].id].up

        await eventually(is_up, "HAProxy's check to pass")
        await driver.apply(origins[1])
        assert ways(driver) == {"runtime": 2, "reload": 1}


async def test_the_plugin_makes_the_http_check_of_a_new_server(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(fail, "127.0.0.1", 0) as server,
        drive(services={"web": {"bind": bind, "check": {"path": "/health?x=1", "interval": "100ms"}}}) as driver,
    ):
        failing = backend(id="failing", port=server.sockets[0].getsockname()[1])
        await driver.apply()
        async with same_worker(driver):
            await driver.apply(origins[0])
            await wait_until_served(fetch, bind, origins[0])
            await driver.apply(origins[0], failing)
            assert not (await live_servers(driver))["web", "failing"].up
            await driver.apply(origins[1], failing)
            assert (await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origins[1].port)


async def test_a_new_server_whose_check_takes_long_serves_at_once_if_no_other_does(
    drive: Drive, fetch: Fetch, bind: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/health" in await reader.read(1000):
            await asyncio.sleep(0.4)  # the input: a slow check, within the limit of 1 s
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow")
        writer.close()

    services = {"web": {"bind": bind, "check": {"path": "/health"}, "timeouts": {"check": "1s"}}}
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, drive(services=services) as driver:
        port = server.sockets[0].getsockname()[1]
        await driver.apply(backend(id="one", port=port))
        for id_ in ("two", "three"):
            await driver.apply(backend(id=id_, port=port))
            assert (await asyncio.to_thread(fetch, f"http://{bind}/")).body == "slow"
        await driver.apply(backend(id="three", port=port), backend(id="four", port=port))
        assert ways(driver) == {"runtime": 1, "reload": 2}


async def test_servers_that_another_program_changed_are_put_right_by_the_next_change(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        await driver.control.send(f"@1 set server web/{origins[0].id} addr 127.0.0.1 port {origins[3].port}")
        await driver.apply(*origins[:2])
        await assert_true(driver)
        assert driver.has_logged(f"is at 127.0.0.1 port {origins[3].port}")
        assert ways(driver) == {"runtime": 1, "reload": 0}


@pytest.mark.costly
async def test_a_reload_by_another_program_at_any_moment_leads_to_the_same_servers(
    drive: Drive, origins: Origins, bind: str
) -> None:
    # So many servers take HAProxy a while to load.
    many = [backend(id=f"s{number}", port=origins[0].port) for number in range(800)]
    async with drive(services={"web": {"bind": bind, "check": False}}) as driver:
        await driver.apply(*many)
        for moment in range(8):
            reload = asyncio.create_task(driver.control.send_once("reload", 30))
            await asyncio.sleep(0.01 * moment)  # the progress of the reload is the case, not a condition
            await driver.apply(*many, *origins[: moment % 3])
            await reload
            await assert_true(driver)
            expected = {*(each.id for each in many), *(each.id for each in origins[: moment % 3])}
            assert {name for (_, name), row in (await live_servers(driver)).items() if not row.removed} == expected


async def test_a_reload_by_another_program_reads_no_state_of_before_a_change(
    drive: Drive, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind, "check": False}}) as driver:
        moved = [backend(id="moved", port=each.port) for each in origins]
        await driver.apply(moved[0], backend(id="back", port=origins[0].port))
        await driver.control.send_once("@1 set server web/back state maint", within(5))
        await save_states_by_a_reload(driver, bind)
        await driver.apply(moved[1])
        await driver.apply(moved[1], backend(id="back", port=origins[0].port))
        assert ways(driver) == {"runtime": 2, "reload": 1}
        before = (await driver.processes()).workers
        await driver.control.send_once("reload", within(10))

        async def is_reloaded() -> bool:
            workers = (await driver.processes()).workers
            return bool(workers) and workers != before

        await eventually(is_reloaded, "another worker")
        await assert_true(driver)


async def test_a_worker_that_hangs_leaves_no_outdated_states_to_its_successor(
    drive: Drive, origins: Origins, bind: str
) -> None:
    limits = Limits(answer=within(0.3))
    async with drive(services={"web": {"bind": bind, "check": False}}, limits=limits) as driver:
        await driver.apply(backend(id="moved", port=origins[0].port))
        await save_states_by_a_reload(driver, bind)
        [worker] = (await driver.processes()).workers
        os.kill(worker, signal.SIGSTOP)
        try:
            await driver.apply(backend(id="moved", port=origins[1].port))
        finally:
            os.kill(worker, signal.SIGCONT)
        assert driver.has_logged("the servers' states are not carried over")
        await assert_true(driver)


async def save_states_by_a_reload(driver: ConsumerDriver, bind: str) -> None:
    """Change an option of the service `web` that only a reload can change."""
    options = {"bind": bind, "check": False, "maxconn": 1000}
    assert await driver.consumer.reconfigure(driver.configured(services={"web": options}))
    await driver.apply_again()
    assert ways(driver)["reload"] == 1


async def test_a_change_that_cannot_be_proven_is_undone_by_the_next(drive: Drive, origins: Origins, bind: str) -> None:
    async with drive(services={"web": {"bind": bind}}, limits=Limits(answer=within(0.5))) as driver:
        await driver.apply(origins[0])
        # The worker changes the servers, and the master does not tell in time whether the worker is still in service.
        master = driver.master
        os.kill(master, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(within(2), os.kill, master, signal.SIGCONT)
        with suppress(ApplyError):
            await driver.apply(origins[1])
        await driver.apply(origins[0])
        await assert_true(driver)
        assert {name for (_, name), row in (await live_servers(driver)).items() if not row.removed} == {origins[0].id}


async def test_a_sticky_client_stays_with_a_server_that_was_added(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind, "cookie": "S"}}) as driver:
        await driver.apply(origins[0])
        await driver.apply(*origins[:2])
        answers = [await asyncio.to_thread(fetch, f"http://{bind}/") for _ in range(4)]
        cookies = {answer.body: answer.cookie for answer in answers}
        assert set(cookies) == {str(each.port) for each in origins[:2]}
        for body, cookie in cookies.items():
            assert cookie is not None
            assert {(await asyncio.to_thread(fetch, f"http://{bind}/", Cookie=cookie)).body for _ in range(4)} == {body}
        # HAProxy 2.6 adds no server with a cookie at run time.
        assert sum(ways(driver).values()) == 1


async def test_a_reload_is_chosen_where_it_is_far_faster_and_its_time_is_learnt(
    drive: Drive, origins: Origins, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[float] = []
    learn = costs.Costs.after_reload

    def after_reload(self: costs.Costs, sizes: Iterable[int], measured: float) -> costs.Costs:
        learnt.append(measured)
        return learn(self, sizes, measured)

    monkeypatch.setattr(costs.Costs, "after_reload", after_reload)
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(*origins[:2])
        with monkeypatch.context() as limits:
            limits.setattr(costs, "_PATIENCE", 0.0)
            limits.setattr(costs, "_PREFERENCE", 0.0)
            await driver.apply(*origins[:3])
        assert driver.has_logged("a reload is faster than so many changes: web: 1 server added")
        await driver.apply(*origins[:2])
        assert ways(driver) == {"runtime": 1, "reload": 1}
        assert len(learnt) == 1
        assert 0.0 < learnt[0] < within(10)
