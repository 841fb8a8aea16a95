"""Many changes through the runtime API, under load: in a burst, and for a while beside WebSockets."""

import asyncio
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest
from haproxy_driver import Drive, StartLoad, assert_true, ways
from haproxy_origins import serve_origins, serve_websockets

from discovery import Backend, State
from discovery.testing import backend, within

BURST = 1000
"""Address changes at once, of a section with as many servers."""
RATE = 10
"""Changes in a second."""


async def test_a_burst_of_address_changes_is_live_and_verified_at_once(
    drive: Drive, load: StartLoad, bind: str
) -> None:
    """The bar is a second on a quiet machine: see `benchmarks/bursts.py`."""
    with serve_origins(2) as ports:
        hosts = [f"127.1.{number // 250}.{1 + number % 250}" for number in range(BURST)]
        before, after = (
            [backend(id=f"s{number:04}", host=host, port=port) for number, host in enumerate(hosts)] for port in ports
        )
        async with drive(services={"web": {"bind": bind}}) as driver:
            await driver.apply(*before)
            processes = await driver.processes()
            requests = [load(f"http://{bind}/", keep_alive=keep_alive) for keep_alive in (True, False)]
            started = time.monotonic()
            await driver.apply(*after)
            seconds = time.monotonic() - started
            counts = [await asyncio.to_thread(each.stop) for each in requests]
            await assert_true(driver)
            assert await driver.processes() == processes
            assert ways(driver) == {"runtime": 1, "reload": 0}
            assert [failed for _, failed in counts] == [0, 0]
            assert seconds < within(10)


def changed(wanted: dict[str, Backend], number: int, ports: list[int]) -> None:
    """Make the change of this number: servers come, move, get another weight, drain, and go. Names come back."""
    id_ = f"n{number // 5 % 3}"
    port = ports[number % len(ports)]
    match number % 5:
        case 0 | 1:
            wanted[id_] = backend(id=id_, port=port)
        case 2:
            wanted[id_] = backend(id=id_, port=wanted[id_].port, weight=5)
        case 3:
            wanted[id_] = backend(id=id_, port=wanted[id_].port, state=State.DRAINING)
        case _:
            del wanted[id_]


@pytest.mark.costly
@pytest.mark.timeout(300)  # the long case takes more than a minute, and as long again on a busy machine
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.exhaustive)])
async def test_steady_changes_keep_the_worker_every_request_and_every_websocket(
    drive: Drive, load: StartLoad, bind: str, seconds: int
) -> None:
    async with serve_websockets() as websockets, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        ports = stack.enter_context(serve_origins(4, websockets))
        wanted = {id_: backend(id=id_, port=port) for id_, port in zip("ab", ports, strict=False)}
        driver = await stack.enter_async_context(drive(services={"web": {"bind": bind}}))
        await driver.apply(*wanted.values())
        processes = await driver.processes()
        requests = [load(f"http://{bind}/", keep_alive=keep_alive) for keep_alive in (True, False)]
        sockets: list[aiohttp.ClientWebSocketResponse] = []
        started = time.monotonic()
        for number in range(RATE * seconds):
            changed(wanted, number, ports)
            await driver.apply(*wanted.values())
            if number % RATE == number // RATE % RATE:  # one a second, each after another kind of change
                sockets.append(await session.ws_connect(f"http://{bind}/"))
                stack.push_async_callback(sockets[-1].close)
            await asyncio.sleep(max(0.0, started + (number + 1) / RATE - time.monotonic()))
        counts = [await asyncio.to_thread(each.stop) for each in requests]
        for number, each in enumerate(sockets):
            await each.send_str(str(number))
            assert await each.receive_str(timeout=within(10)) == str(number)
        await assert_true(driver)
        assert await driver.processes() == processes
        assert ways(driver) == {"runtime": RATE * seconds, "reload": 0}
        assert [failed for _, failed in counts] == [0, 0]
        assert all(answered for answered, _ in counts)
        assert len(sockets) == seconds
