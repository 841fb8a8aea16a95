"""Requests that wait while their service has no backend, with real HAProxy."""

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from haproxy_driver import ConsumerDriver, Drive, assert_true, live_servers, same_worker, ways
from haproxy_web import Fetch
from stand_ins import HttpServer, Servers
from web_client import get

from discovery import Backend
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.managed.held_requests import HeldRequests
from discovery_haproxy.text.server_line import HOLDING_ADDRESS, HOLDING_SERVER

Origins = tuple[Backend, ...]
SOON = {"connect": "50ms"}
"""Timeouts with which HAProxy tries 20 times a second."""
_CLIENTS = 60
"""Number of requests that come within 15 s, nine tenths of them in the outage."""
RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which a connection ends by a reset."""


async def streams(driver: ConsumerDriver, worker: int | None = None) -> int:
    """Return the number of connections that are in the service `web` of a worker, by default of the present one."""
    answer = await driver.control.send(f"@!{worker} show stat" if worker else "@1 show stat")
    [row] = [line.split(",") for line in answer.splitlines() if line.startswith("web,BACKEND,")]
    return int(row[4])


async def waiting(driver: ConsumerDriver, count: int, worker: int | None = None) -> None:
    """Wait until so many connections are in the service `web`."""

    async def there() -> bool:
        return await streams(driver, worker) == count

    await eventually(there, f"{count} connections in `web`")


def post(bind: str, size: int) -> bytes:
    """Return the beginning of the answer to a POST of so many bytes."""
    host, _, port = bind.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=within(20)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        return client.recv(12)


def connected(bind: str) -> socket.socket:
    """Return the connection of a client that has sent a request."""
    host, _, port = bind.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=within(20))
    client.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
    return client


async def read_and_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request once its body has been read: an earlier answer would be lost in the reset that follows it."""
    with suppress(asyncio.IncompleteReadError):  # a check connects and leaves
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nread")
        await writer.drain()
    writer.close()


async def test_requests_wait_for_a_backend_that_is_added_at_run_time(drive: Drive, fetch: Fetch, bind: str) -> None:
    async with (
        await asyncio.start_server(read_and_answer, "127.0.0.1", 0) as server,
        drive(services={"web": {"bind": bind, "hold": "30s", "timeouts": SOON}}) as driver,
    ):
        await driver.apply()
        async with same_worker(driver):
            # More than HAProxy buffers: the body waits in the client's socket.
            clients = [asyncio.create_task(asyncio.to_thread(post, bind, 1_000_000))]
            clients += [asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/")) for _ in range(2)]
            await waiting(driver, 3)
            await driver.apply(backend(port=server.sockets[0].getsockname()[1]))
            begin, *answers = await asyncio.gather(*clients)
            assert begin == b"HTTP/1.1 200"
            assert {(each.status, each.body) for each in answers} == {(200, "read")}
            await assert_true(driver)
        assert ways(driver) == {"runtime": 1, "reload": 0}


async def test_no_more_requests_come_to_a_backend_at_once_than_it_takes(drive: Drive, fetch: Fetch, bind: str) -> None:
    """All at once would overflow the queue of its kernel."""
    now = most = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        with suppress(asyncio.IncompleteReadError):  # a check connects and leaves
            await reader.readuntil(b"\r\n\r\n")
            now, most = now + 1, max(most, now + 1)
            await asyncio.sleep(0.02)  # no condition: the others could come meanwhile
            now -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nserved")
            await writer.drain()
        writer.close()

    check = {"interval": "200ms", "rise": 1}
    service = {"bind": bind, "hold": "30s", "timeouts": SOON, "server_maxconn": 2, "check": check}
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, drive(services={"web": service}) as driver:
        await driver.apply()
        clients = [asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/")) for _ in range(6)]
        await waiting(driver, 6)
        await driver.apply(backend(port=server.sockets[0].getsockname()[1]))
        assert {each.body for each in await asyncio.gather(*clients)} == {"served"}
    assert most <= 2


async def test_a_client_that_leaves_does_not_wait_on(drive: Drive, bind: str) -> None:
    async with drive(services={"web": {"bind": bind, "hold": "30s", "timeouts": SOON}}) as driver:
        await driver.apply()
        leaving, resetting = connected(bind), connected(bind)
        await waiting(driver, 2)
        leaving.close()
        await waiting(driver, 1)
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        resetting.close()
        await waiting(driver, 0)


async def test_so_many_wait_and_for_so_long(drive: Drive, fetch: Fetch, bind: str) -> None:
    service = {"bind": bind, "hold": "500ms", "hold_connections": 1, "timeouts": SOON}
    async with drive(services={"web": service}) as driver:
        await driver.apply()
        with connected(bind) as first:
            await waiting(driver, 1)
            assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 503
            assert await streams(driver) == 1
            assert (await asyncio.to_thread(first.recv, 12)) == b"HTTP/1.1 503"


@pytest.mark.parametrize("balance", ["leastconn", "source"])
async def test_requests_wait_while_the_only_backend_is_down(
    drive: Drive, fetch: Fetch, bind: str, servers: Servers, balance: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    check = {"interval": "200ms", "rise": 1}
    service = {"bind": bind, "hold": "30s", "balance": balance, "timeouts": SOON, "check": check}
    async with drive(services={"web": service}) as driver:
        server = servers.http(address, lambda _: (200, "before"))
        await driver.apply(backend(port=int(address.rpartition(":")[2])))
        assert (await asyncio.to_thread(fetch, f"http://{bind}/")).body == "before"
        server.kill()
        # The first request finds the backend dead, and waits as those do that come later.
        clients = [asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/")) for _ in range(3)]
        await waiting(driver, 3)
        servers.http(address, lambda _: (200, "after"))
        assert {(each.status, each.body) for each in await asyncio.gather(*clients)} == {(200, "after")}


async def test_a_tcp_client_waits_for_a_backend(drive: Drive, bind: str, servers: Servers) -> None:
    address = f"127.0.0.1:{free_port()}"
    server = servers.tcp(address, lambda: "welcome")
    async with drive(services={"web": {"bind": bind, "mode": "tcp", "hold": "30s", "timeouts": SOON}}) as driver:
        await driver.apply()
        client = asyncio.create_task(asyncio.to_thread(_greeting, bind))
        await waiting(driver, 1)
        await driver.apply(backend(port=int(address.rpartition(":")[2])))
        assert await client == b"welcome\n"
        server.kill()  # or HAProxy would wait for the end of the connection


async def test_a_websocket_waits_for_a_backend(drive: Drive, bind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello"
        )
        await reader.read()
        writer.close()

    services = {"web": {"bind": bind, "hold": "30s", "timeouts": SOON, "check": {"interval": "1h"}}}
    async with drive(services=services) as driver, await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        await driver.apply()
        host, _, port = bind.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await waiting(driver, 1)
        await driver.apply(backend(port=server.sockets[0].getsockname()[1]))
        assert (await asyncio.wait_for(reader.readuntil(b"hello"), within(20))).startswith(b"HTTP/1.1 101")
        writer.close()


async def test_a_request_in_an_old_worker_goes_to_a_backend_that_comes_later(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    services = {"web": {"bind": bind, "hold": "30s", "timeouts": SOON}}
    async with drive(services=services) as driver:
        await driver.apply()
        [worker] = (await driver.processes()).workers
        client = asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/"))
        await waiting(driver, 1)
        assert await driver.consumer.reconfigure(driver.configured(maxconn=1000))
        await driver.apply()  # a reload, for another reason
        assert (await driver.processes()).old == (worker,)
        await waiting(driver, 1, worker)
        await driver.apply(origins[0])
        assert (await client).body == str(origins[0].port)
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_a_reload_that_fails_leaves_requests_to_the_worker(
    drive: Drive, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind, "hold": "30s", "timeouts": SOON}}) as driver:
        await driver.apply()
        client = asyncio.create_task(asyncio.to_thread(fetch, f"http://{bind}/"))
        await waiting(driver, 1)
        key = "web", HOLDING_SERVER
        held = HeldRequests(driver.control)
        await held.before_reload({"web": 30.0})
        assert (await live_servers(driver))[key].port != HOLDING_ADDRESS[1]
        await held.after_failure()
        assert (await live_servers(driver))[key].port == HOLDING_ADDRESS[1]
        await driver.apply(origins[0])
        assert (await client).body == str(origins[0].port)


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [1, 2])
async def test_an_outage_of_15_seconds_fails_no_request(drive: Drive, bind: str, servers: Servers, count: int) -> None:
    ports = [free_port() for _ in range(count)]
    loop = asyncio.get_running_loop()

    def start() -> list[HttpServer]:
        return [servers.http(f"127.0.0.1:{port}", lambda _: (200, "served")) for port in ports]

    with ThreadPoolExecutor(_CLIENTS) as clients:
        async with drive(services={"web": {"bind": bind, "hold": "20s"}}) as driver:
            before = start()
            await driver.apply(*_backends(ports))
            answers = []
            for number in range(_CLIENTS):
                if number == _CLIENTS // 10:
                    for each in before:
                        each.kill()
                answers.append(loop.run_in_executor(clients, _answer, bind))
                await asyncio.sleep(15 / _CLIENTS)  # no condition: the clients come throughout the outage
            start()
            assert Counter(await asyncio.gather(*answers)) == {"200 served": _CLIENTS}


def _backends(ports: Iterable[int]) -> list[Backend]:
    return [backend(port=port) for port in ports]


def _answer(bind: str) -> str:
    answer = get(int(bind.rpartition(":")[2]))
    return f"{answer.status} {answer.body}"


def _greeting(bind: str) -> bytes:
    host, _, port = bind.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=within(20)) as client:
        return client.recv(100)
