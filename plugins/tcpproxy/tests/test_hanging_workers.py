"""Workers that hang while they are told, and those of whom there are too many."""

import asyncio
import os
import resource
import signal

import pytest

from discovery.testing import eventually, within
from discovery_tcpproxy.timing import Timing

from .driving import Client, address, driving, origins, reached

IMPATIENT = Timing(stragglers=0.1, report=0.1)


@pytest.mark.parametrize("late", [0.0, 0.1])
async def test_a_hanging_worker_does_not_delay_other_workers(late: float) -> None:
    web, timing = address(), Timing(start=600.0, stragglers=late, report=0.1)
    async with origins("a", "b") as (a, b), driving(listen={"web": web}, workers=2, timing=timing) as driven:
        await driven.apply(a.backend())
        await eventually(lambda: all("web" in each._targets for each in driven.consumer._workers.running))
        hanging, other = driven.consumer._workers.running
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(within(20)):
                for each in (b, a, b):
                    await driven.apply(each.backend())
                    assert other._targets["web"][0].id == each.name
                await driven.reconfigure(listen={"web": web}, workers=2, grace=1)
            assert hanging._targets["web"][0].id == "a"
        finally:
            os.kill(hanging.pid, signal.SIGCONT)
        await eventually(lambda: hanging._targets["web"][0].id == "b")  # the newest, without another change
        assert {await reached(web) for _ in range(20)} == {"b"}
        assert driven.consumer._workers.replaced == 0


async def test_a_hanging_surplus_worker_does_not_delay_a_reload() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=2, timing=IMPATIENT) as driven:
        await driven.apply(a.backend())
        _, hanging = driven.consumer._workers.running
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(within(20)):
                await driven.reconfigure(listen={"web": web}, workers=1)
        finally:
            os.kill(hanging.pid, signal.SIGCONT)
        await eventually(lambda: driven.has_workers(1))


async def test_clients_held_by_a_surplus_worker_are_served_when_a_backend_comes() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": {"bind": web, "hold": 60}}, workers=2) as driven:
        await driven.apply()
        first, _ = driven.consumer._workers.running
        os.kill(first.pid, signal.SIGSTOP)  # so that the other has all of them
        try:
            clients = [await Client.to(web) for _ in range(5)]
            await eventually(lambda: driven.figure("connections_waiting") == 5)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        await driven.reconfigure(listen={"web": {"bind": web, "hold": 60}}, workers=1)
        await driven.apply(a.backend())
        assert [await each.greeting() for each in clients] == ["a"] * 5
        for each in clients:
            each.close()
        await eventually(lambda: driven.has_workers(1))


async def test_a_late_refusal_is_a_problem_and_the_attempt_is_repeated() -> None:
    web, db = address(), address()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=2, timing=IMPATIENT) as driven:
        await driven.apply(a.backend())
        await eventually(lambda: all(web in each._sockets for each in driven.consumer._workers.running))
        await eventually(lambda: driven.has_workers(2))
        late, other = driven.consumer._workers.running
        before = resource.prlimit(late.pid, resource.RLIMIT_NOFILE)
        os.kill(late.pid, signal.SIGSTOP)
        try:
            resource.prlimit(late.pid, resource.RLIMIT_NOFILE, (3, before[1]))  # too few to receive another socket
            await driven.reconfigure(listen={"web": web, "db": {"bind": db, "service": "web"}}, workers=2)
            assert db in other._sockets
        finally:
            os.kill(late.pid, signal.SIGCONT)

        async def has_problem() -> bool:
            health = await driven.consumer.health()
            return not health.ok and "worker 1 refuses" in health.detail

        await eventually(has_problem)
        resource.prlimit(late.pid, resource.RLIMIT_NOFILE, before)
        await eventually(lambda: db in late._sockets)  # without another change

        async def is_healthy() -> bool:
            return (await driven.consumer.health()).ok

        await eventually(is_healthy)
        assert driven.consumer._workers.replaced == 0
