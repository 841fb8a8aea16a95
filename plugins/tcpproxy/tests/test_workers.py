"""Worker processes that die, hang and end, the hand-over of their sockets, and the reports of these events."""

import asyncio
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
from descriptors import open_descriptors

from discovery import ApplyError
from discovery.testing import backend, eventually, within
from discovery_tcpproxy.timing import Timing
from discovery_tcpproxy.worker_process import WorkerProcess

from .driving import Client, Driven, address, driving, is_running, origins, reached, served


async def test_a_worker_that_is_killed_is_replaced_and_new_connections_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=2) as driven:
        await driven.apply(a.backend())
        pids = await driven.pids()
        clients = [await Client.to(web) for _ in range(20)]  # too many for one worker to have them all
        await eventually(lambda: driven.figure("connections") == 20)
        before = driven.figure("connections")
        meanwhile: list[float] = []
        close = WorkerProcess.close

        async def watched(worker: WorkerProcess) -> None:
            await close(worker)
            meanwhile.append(driven.figure("connections"))

        monkeypatch.setattr(WorkerProcess, "close", watched)
        os.kill(pids[0], signal.SIGKILL)
        assert [await reached(web) for _ in range(20)] == ["a"] * 20
        await eventually(lambda: driven.has_workers(2))
        await eventually(driven.healthy)
        assert meanwhile[0] >= before
        await eventually(lambda: driven.figure("connections") >= before + 20)
        assert driven.figure("workers_replaced") == 1
        assert not is_running(pids[0])
        assert driven.said("killed by SIGKILL")
        left = [*driven.consumer.context.run_dir.glob("worker-*.sock")]
        assert len(left) == 2, "the socket of one that was killed goes with it"
        for each in clients:
            each.close()


async def test_clients_wait_in_the_accept_queue_while_the_only_worker_is_replaced() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}) as driven:
        await driven.apply(a.backend())
        for _ in range(3):
            [pid] = await driven.pids()
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda pid=pid: not is_running(pid))  # type: ignore[misc]
            assert await reached(web) == "a"
            await eventually(lambda: driven.has_workers(1))


async def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    web = address()
    timing = Timing(answer=within(0.5), start=0.0, report=0.1)
    async with origins("a") as (a,), driving(listen={"web": web}, timing=timing) as driven:
        await driven.apply(a.backend())
        [old] = driven.consumer._workers.running
        os.kill(old.pid, signal.SIGSTOP)
        assert await reached(web) == "a"
        assert driven.said(f"no answer to 'report' within {timing.answer:g} s")
        assert not is_running(old.pid)


async def test_a_daemon_that_was_suspended_keeps_its_workers() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}) as driven:
        await driven.apply(a.backend())
        [worker] = driven.consumer._workers.running
        asking = asyncio.ensure_future(worker._channel.request("report", 1.0))
        await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(1.5)  # noqa: ASYNC251 - as one who is stopped
        os.kill(worker.pid, signal.SIGCONT)
        assert "listeners" in await asking
        assert worker.alive


async def test_teardown_leaves_no_process_listener_or_descriptor() -> None:
    web = address()
    before = open_descriptors()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=2) as driven:
        await driven.apply(a.backend())
        pids = await driven.pids()
        assert await reached(web) == "a"
    assert not any(map(is_running, pids))
    with pytest.raises(ConnectionRefusedError):
        await Client.to(web)
    await eventually(lambda: open_descriptors() == before)


async def test_teardown_lets_connections_finish_and_refuses_new_clients() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, grace=60) as driven:
        await driven.apply(a.backend())
        client = await Client.to(web)
        assert await client.greeting() == "a"
        assert driven.consumer.stop_seconds > 60
        end = asyncio.create_task(driven.consumer.teardown())
        await eventually(lambda: _refused(web))
        assert await client.echoes()
        assert not end.done()
        client.close()
        await end


async def _refused(address: str) -> bool:
    try:
        (await Client.to(address)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_teardown_closes_connections_after_the_grace() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, grace=0.2) as driven:
        await driven.apply(a.backend())
        client = await Client.to(web)
        assert await client.greeting() == "a"
        await driven.consumer.teardown()
        assert await client.is_closed()
        client.close()


async def test_a_successor_takes_the_sockets_and_no_client_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        binds = [address(), f"unix:{directory}/web.sock"]
        async with origins("a", "b") as (a, b), driving(listen={"web": binds}, grace=60) as old:
            await old.apply(a.backend())
            client = await Client.to(binds[0])
            assert await client.greeting() == "a"
            sockets = await old.consumer.hand_over()
            assert [await reached(bind) for bind in binds] == ["a", "a"]  # until the successor has the sockets
            end = asyncio.create_task(old.consumer.teardown())
            await eventually(lambda: all(each.stopped for each in old.consumer._workers.running))
            assert await old.consumer._workers.reports(connections=False)  # the workers have taken the stop before
            waiting = [await Client.to(bind) for bind in binds]
            async with driving(inherited=sockets, listen={"web": binds}) as new:
                await new.apply(b.backend())
                assert [await each.greeting() for each in waiting] == ["b", "b"]
                assert await client.echoes()
                assert [await reached(bind) for bind in binds] == ["b", "b"]
                client.close()
                await end
                assert [await reached(bind) for bind in binds] == ["b", "b"]
                for each in waiting:
                    each.close()


async def test_a_failed_setup_leaves_inherited_sockets_to_the_next_setup() -> None:
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        path = Path(directory, "web.sock")
        with socket.socket(socket.AF_UNIX) as held:
            held.bind(str(path))
            held.listen()
            driven = Driven(Path(directory), (held.dup(),), listen={"web": f"unix:{path}"})
            driven.consumer._open_missing()
            await driven.consumer.teardown()
            assert path.exists()
            client = await Client.to(f"unix:{path}")
            client.close()


async def test_host_names_are_looked_up_and_a_host_name_without_addresses_is_reported() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}) as driven:
        await driven.apply(
            backend(id="a", host="localhost", port=a.port), backend(id="b", host="nowhere.invalid", port=1)
        )
        assert await reached(web) == "a"
        health = await driven.consumer.health()
        assert health.ok
        assert health.detail == "backend b of web is left out: no address for 'nowhere.invalid'"
        assert driven.said("no address for 'nowhere.invalid'")
        assert (await driven.inspect())["left_out"] == [health.detail]


async def test_figures_and_connections_are_reported() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=2) as driven:
        await driven.apply(a.backend())
        clients = [await Client.to(web) for _ in range(5)]
        for each in clients:
            assert await each.greeting() == "a"
            assert await each.echoes()
        told = await driven.inspect()
        assert len(told["connections"]) == 5
        one = told["connections"][0]
        assert (one["listener"], one["service"], one["backend"]) == ("web", "web", "a")
        assert (one["received"], one["sent"]) == (6, 8)
        assert one["pid"] in [each["pid"] for each in told["workers"]]
        assert told["more_connections"] == 0
        assert told["listeners"][0]["backends"][0]["open"] == 5
        await eventually(lambda: driven.figure("connections_open", listener="web") == 5)
        assert driven.figure("backend_connections_open", backend="a", service="web") == 5
        assert driven.figure("received_bytes") == 30
        assert driven.figure("sent_bytes") == 40
        assert driven.figure("workers") == 2
        for each in clients:
            each.close()
        await eventually(lambda: driven.figure("connections_open") == 0)
        assert driven.figure("connections") == 5


async def test_the_access_log_contains_ended_connections() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, access_log=True) as driven:
        await driven.apply(a.backend())
        assert await reached(web) == "a"
        line = await eventually(
            lambda: next((each for each in driven.log.entries if each["event"] == "connection"), None)
        )
        assert (line["listener"], line["backend"], line["sent"], line["log_level"]) == ("web", "a", 2, "info")


async def test_limits_are_totals_over_all_workers() -> None:
    web = address()
    listen = {"web": {"bind": web, "max_connections": 5}}
    async with origins("a") as (a,), driving(listen=listen, workers=2) as driven:
        await driven.apply(a.backend())
        clients = [client for _ in range(12) if (client := await served(web))]
        assert len(clients) <= 5
        await eventually(lambda: driven.figure("rejected", reason="limit") >= 7)
        for each in clients:
            each.close()


async def test_setup_fails_if_no_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):  # it is a matter of who notices first
        with tempfile.TemporaryDirectory(prefix="tp-") as directory:
            driven = Driven(Path(directory), listen={"web": address()})
            with monkeypatch.context() as broken:
                broken.setattr("discovery_tcpproxy.worker_process.sys.executable", "/bin/false")
                with pytest.raises(ApplyError, match="no worker runs: "):
                    await driven.consumer.setup()
                await driven.consumer.teardown()
