"""What a reload leaves and takes along: old workers with open connections, and stick tables."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, reload_by_hand, ways
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import backend, eventually, within
from discovery_haproxy.limits import Limits
from discovery_haproxy.options.config import HAProxyConfig

Origins = tuple[Backend, ...]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a server that sends each line back. Yield its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connected(bind: str) -> AsyncIterator[Stream]:
    """Open a connection through HAProxy, which is established when a line has come back."""
    host, _, port = bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        assert await is_open((reader, writer))
        yield reader, writer
    finally:
        writer.close()


async def is_open(stream: Stream) -> bool:
    reader, writer = stream
    writer.write(b"line\n")
    return await asyncio.wait_for(reader.readline(), within(10)) == b"line\n"


async def reload(driver: ConsumerDriver, **config: object) -> None:
    """Change the configuration as only a reload can."""
    before = (await driver.processes()).reloads
    assert await driver.consumer.reconfigure(driver.configured(**config))
    await driver.apply_again()
    assert (await driver.processes()).reloads == before + 1


async def old_workers(driver: ConsumerDriver) -> float:
    """Return the number of old workers that the metric tells after a health check."""
    await driver.consumer.health()
    [value] = [each.value for each in driver.consumer.metrics() if each.name == "old_workers"]
    return value


async def test_at_most_so_many_old_workers_run(drive: Drive, bind: str) -> None:
    services = {"web": {"bind": bind, "mode": "tcp"}}
    async with (
        echo() as port,
        drive(services=services, max_old_workers=2) as driver,
        AsyncExitStack() as stack,
    ):
        await driver.apply(backend(port=port))
        streams = []
        for number in range(3):
            streams.append(await stack.enter_async_context(connected(bind)))
            assert await old_workers(driver) == min(number, 2)
            await reload(driver, maxconn=1000 + number)
        # The oldest worker has survived two reloads, and ended with the third.
        assert await asyncio.wait_for(streams[0][0].read(), within(10)) == b""
        assert [await is_open(stream) for stream in streams[1:]] == [True, True]

        async def are_two() -> bool:
            return await old_workers(driver) == 2

        await eventually(are_two, "the oldest worker to end")


async def test_many_old_workers_are_a_warning(drive: Drive, bind: str) -> None:
    async with (
        echo() as port,
        drive(services={"web": {"bind": bind, "mode": "tcp"}}) as driver,
        AsyncExitStack() as stack,
    ):
        await driver.apply(backend(port=port))
        for number in range(6):
            await stack.enter_async_context(connected(bind))
            assert (await driver.consumer.health()).detail == ""
            await reload(driver, maxconn=1000 + number)
        assert "6 old workers still serve connections" in (await driver.consumer.health()).detail
        assert await old_workers(driver) == 6
        warnings = [entry for entry in driver.log.entries if "old workers" in str(entry["event"])]
        assert [entry["log_level"] for entry in warnings] == ["warning"]


@pytest.mark.exhaustive  # HAProxy hands no tables on before its first worker has run for 5 s
async def test_entries_of_a_stick_table_are_there_after_a_reload(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, other_haproxy: Path
) -> None:
    lines = [
        "stick-table type ip size 1k expire 10m store http_req_cnt peers discovery",
        "http-request track-sc0 src",
    ]
    services = {"web": {"bind": bind, "check": False, "backend_lines": lines}}
    async with drive(services=services, keep_stick_tables=True) as driver:
        await driver.apply(origins[0])

        async def entries() -> list[str]:
            return re.findall(r"http_req_cnt=(\d+)", await driver.control.send_once("@1 show table web", within(5)))

        async def has_run_for_6_seconds() -> bool:
            info = await driver.control.send_once("@1 show info", within(5))
            found = re.search(r"^Uptime_sec: (\d+)", info, re.MULTILINE)
            return found is not None and int(found[1]) >= 6

        for _ in range(3):
            assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 200
        assert await entries() == ["3"]
        await eventually(has_run_for_6_seconds, "HAProxy to run for 6 s")

        async def are_there() -> bool:
            return await entries() == ["3"]

        for number in range(2):  # the second reload at once after the first
            await reload(driver, maxconn=1000 + number)
            await eventually(are_there, "the entry to be handed on")
        assert await driver.consumer.reconfigure(driver.configured(binary=other_haproxy))
        await driver.apply_again()
        await eventually(are_there, "the entry to be handed on to another version")
        assert (await driver.consumer.health()).ok


def test_a_stick_table_is_kept_for_a_managed_haproxy_alone() -> None:
    with pytest.raises(ValueError, match="give an external HAProxy a 'peers' section"):
        HAProxyConfig.model_validate({"keep_stick_tables": True, "external": {"path": "/x", "systemd_unit": "haproxy"}})


async def has_no_old_worker(driver: ConsumerDriver) -> bool:
    """Report whether each old worker has ended."""
    return not (await driver.processes()).old


async def test_the_connection_for_the_next_change_keeps_no_worker_alive(
    drive: Drive, origins: Origins, bind: str
) -> None:
    forever, limits = ["stats timeout 1h"], Limits(look=3600.0)
    async with drive(services={"web": {"bind": bind}}, global_lines=forever, limits=limits) as driver:
        await driver.apply(origins[0])
        await driver.apply(origins[1])
        await driver.consumer.reconfigure(driver.configured(global_lines=[*forever, "maxconn 1000"]))
        await driver.apply(origins[1])
        assert ways(driver) == {"runtime": 1, "reload": 1}
        await eventually(lambda: has_no_old_worker(driver), "the old worker to end after a reload")
        await driver.apply(origins[2])
        await driver.consumer.hand_over()
        await reload_by_hand(driver)
        await eventually(lambda: has_no_old_worker(driver), "the old worker to end after the hand-over")


async def test_after_a_reload_by_another_program_no_connection_keeps_the_old_worker(
    drive: Drive, origins: Origins, bind: str
) -> None:
    forever, limits = ["stats timeout 1h"], Limits(look=0.05)
    async with drive(services={"web": {"bind": bind}}, global_lines=forever, limits=limits) as driver:
        await driver.apply(origins[0])
        await driver.apply(origins[1])
        await reload_by_hand(driver)
        await eventually(lambda: has_no_old_worker(driver), "the old worker to end")
        await driver.apply(origins[2])
        assert ways(driver) == {"runtime": 2, "reload": 0}
