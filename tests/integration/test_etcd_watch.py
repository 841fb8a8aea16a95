"""How a watch notices what is wrong, with the patience of tests, and that it does not see what is not."""

import asyncio
import signal
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

from etcds import etcd, url

from discovery.registry import Delta, RegistryEvent, RegistryURL, Reset, Stale
from discovery.registry.etcd import EtcdRegistry, EtcdSettings, Timing
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.watch import Watch
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually, free_port, within
from discovery.testing.etcd import EtcdWriter

__all__ = ["etcd", "url"]

QUICK = Timing(attempt=3, idle=0.3, answer=1.5, audit=0.2, audit_again=0.1)


@asynccontextmanager
async def quick(url: str) -> AsyncIterator[tuple[EtcdWriter, list[RegistryEvent]]]:
    """A writer, and the events of a watch as they come."""
    writer = EtcdWriter(url)
    registry = EtcdRegistry(EtcdSettings.from_url(RegistryURL.parse(url)), QUICK)
    watch = registry.watch()
    events: list[RegistryEvent] = []

    async def follow() -> None:
        async for event in watch:
            events.append(event)  # noqa: PERF401 - it never ends

    task = asyncio.create_task(follow())
    await eventually(lambda: events, "the first event")
    yield writer, events
    task.cancel()
    await asyncio.wait([task])
    await watch.aclose()
    await registry.close()
    await writer.close()


async def test_a_server_that_hangs_is_noticed_and_goes_on_without_a_listing(etcd: EmbeddedEtcd, url: str) -> None:
    async with quick(url) as (writer, events):
        first = await writer.change({"web/a": b"1"})
        await eventually(lambda: Delta(first, {"web/a": b"1"}) in events)
        etcd.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: isinstance(events[-1], Stale))
        finally:
            etcd.send_signal(signal.SIGCONT)
        await eventually(lambda: events[-1] == Delta(first, {}), "the end of the outage")
        assert [type(event) for event in events] == [Reset, Delta, Stale, Delta]


async def test_the_end_of_an_outage_tells_which_changes_were_made_before(url: str) -> None:
    """They come after that event, like those that are made later."""
    port, writing = int(RegistryURL.parse(url).endpoints[0].rpartition(":")[2]), EtcdWriter(url)
    relays: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        relays.extend([writer, to_writer])
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    listener = server.sockets[0].getsockname()[1]
    async with quick(url.replace(f":{port}", f":{listener}")) as (_, events):
        first = await writing.change({"web/a": b"1"})
        await eventually(lambda: Delta(first, {"web/a": b"1"}) in events)
        server.close()
        for each in relays:
            each.transport.abort()
        await eventually(lambda: isinstance(events[-1], Stale))
        second = await writing.change({"web/a": b"2"})
        third = await writing.change({"web/a": b"3"})
        server = await asyncio.start_server(relay, "127.0.0.1", listener)
        await eventually(lambda: Delta(third, {"web/a": b"3"}) in events)
        last = await writing.change({"web/a": b"4"})
        await eventually(lambda: Delta(last, {"web/a": b"4"}) in events)
        told = [event for event in events if isinstance(event, Delta)]
        assert [event.revision for event in told] == [first, first, second, third, last]
        assert [event.present for event in told] == [0, third, 0, 0, 0]
    server.close()
    await writing.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


async def test_failures_before_a_stream_that_worked_are_forgotten_at_a_pause(url: str) -> None:
    """Otherwise a member that does not know the token any more would be asked with that token for ever."""
    settings = EtcdSettings.from_url(RegistryURL.parse(url))
    client, writer = Client(settings), EtcdWriter(url)
    watch = Watch(client, settings.prefix, Timing(attempt=within(3), idle=within(60), answer=within(60), pause=1.5))
    events: list[RegistryEvent] = []

    async def follow() -> None:
        async for event in watch.events():
            events.append(event)  # noqa: PERF401 - it never ends

    watch._failures, watch._logged_in_again = 1, True
    task = asyncio.create_task(follow())
    await eventually(lambda: watch._opened_at is not None, "the stream")
    await asyncio.sleep(2)  # the input is a length of silence
    await writer.change({"web/a": b"1"})
    await eventually(lambda: any(isinstance(event, Stale) for event in events), "the pause")
    await eventually(lambda: isinstance(events[-1], Delta) and events[-1].puts, "the change")
    assert (watch._failures, watch._logged_in_again) == (0, False)
    task.cancel()
    await asyncio.wait([task])
    await writer.close()
    await client.close()


async def test_silence_is_no_fault(url: str) -> None:
    async with quick(url) as (writer, events):
        await asyncio.sleep(2 * (QUICK.idle + QUICK.answer))  # the input is a length of silence
        revision = await writer.change({"web/a": b"1"})
        await eventually(lambda: len(events) > 1)
        assert events[1:] == [Delta(revision, {"web/a": b"1"})]


async def test_a_consumer_that_takes_its_time_is_no_fault_of_the_server(url: str) -> None:
    writer = EtcdWriter(url)
    parsed = EtcdSettings.from_url(RegistryURL.parse(url))
    registry = EtcdRegistry(parsed, QUICK)
    watch = registry.watch()
    await anext(watch)
    revisions = []
    for n in range(300):
        revisions.append(await writer.change({"web/a": str(n).encode() * 1000}))
        if n == 0:
            assert await anext(watch) == Delta(revisions[0], {"web/a": b"0" * 1000})
    await asyncio.sleep(1.5 * (QUICK.idle + QUICK.answer))  # the input is a consumer that reads nothing
    told = [await anext(watch) for _ in revisions[1:]]
    assert [event.revision for event in told if isinstance(event, Delta)] == revisions[1:]
    await watch.aclose()
    await registry.close()
    await writer.close()


async def test_an_audit_finds_what_a_server_has_withheld(url: str) -> None:
    writer = EtcdWriter(url)
    revision = await writer.change({"web/a": b"1"})
    settings = EtcdSettings.from_url(RegistryURL.parse(url))
    watch = Watch(Client(settings), settings.prefix, QUICK)
    events = watch.events()
    assert await anext(events) == Reset(revision, {"web/a": b"1"})
    # No server does so at will: one that tells less than what happened looks like this.
    watch._follower._marks[settings.prefix + b"web/gone"] = 1
    assert await asyncio.wait_for(anext(events), within(10)) == Reset(revision, {"web/a": b"1"})
    await events.aclose()
    await writer.close()


async def test_an_audit_finds_nothing_where_nothing_is_amiss_though_compacted(etcd: EmbeddedEtcd, url: str) -> None:
    elsewhere = EtcdWriter(f"{etcd.url}/elsewhere")
    async with quick(url) as (writer, events):
        # A compaction while the watch is being opened would rightly be listed again.
        first = await writer.change({"web/a": b"0"})
        await eventually(lambda: len(events) > 1)
        for _ in range(8):
            revision = await elsewhere.change({"x/y": b"z"})
            await asyncio.to_thread(etcd.ctl, "compact", str(revision))
            await asyncio.sleep(QUICK.audit)  # an audit that finds nothing shows no event
        revision = await writer.change({"web/a": b"1"})
        await eventually(lambda: len(events) > 2)
        assert events[1:] == [Delta(first, {"web/a": b"0"}), Delta(revision, {"web/a": b"1"})]
    await elsewhere.close()


async def test_a_new_reason_replaces_the_old_one() -> None:
    """Point 5. Nobody listens on etcd's port, then a web server does, which is not etcd, and in the end etcd again."""
    with EmbeddedEtcd() as etcd:
        url = f"{etcd.url}/{uuid.uuid4().hex}"
        async with quick(url) as (writer, events):
            revision = await writer.change({"web/a": b"1"})
            await eventually(lambda: len(events) == 2)
            await asyncio.to_thread(etcd.kill)
            await eventually(lambda: "is etcd running there?" in reason(events), "the first reason", timeout=60)
            with ThreadingHTTPServer(("127.0.0.1", etcd.port), BaseHTTPRequestHandler) as other:
                serving = asyncio.create_task(asyncio.to_thread(other.serve_forever))
                await eventually(lambda: "does not speak gRPC" in reason(events), "the second reason", timeout=60)
                await asyncio.to_thread(other.shutdown)
                await serving
            await eventually(lambda: "is etcd running there?" in reason(events), "the first reason again", timeout=60)
            await asyncio.to_thread(etcd.start)
            await eventually(lambda: events[-1] == Delta(revision, {}), "the end of the outage", timeout=60)
            stale = [event.reason for event in events if isinstance(event, Stale)]
            assert all(one != next_ for one, next_ in pairwise(stale)), stale


async def test_reasons_that_alternate_between_members_are_one_reason() -> None:
    """Point 5. One member is down, and at the address of the other something else listens."""
    connections = 0

    class Other(ThreadingHTTPServer):
        def get_request(self) -> tuple[socket.socket, Any]:
            nonlocal connections
            connections += 1
            return super().get_request()

    with Other(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        serving = threading.Thread(target=other.serve_forever)
        serving.start()
        endpoints = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{other.server_port}"]
        registry = EtcdRegistry(EtcdSettings(tuple(endpoints)), QUICK)
        told: list[RegistryEvent] = []

        async def follow() -> None:
            async for event in registry.watch():
                told.append(event)  # noqa: PERF401 - it never ends

        task = asyncio.create_task(follow())
        await eventually(lambda: told, "Stale", timeout=60)
        before = connections
        await eventually(lambda: connections >= before + 3, "several rounds", timeout=60)
        task.cancel()
        await asyncio.wait([task])
        await registry.close()
        assert len(told) == 1, told
        assert all(endpoint in reason(told) for endpoint in endpoints)
        assert "is etcd running there?" in reason(told)
        assert "does not speak gRPC" in reason(told)
        other.shutdown()
        serving.join()


def reason(events: list[RegistryEvent]) -> str:
    """Why the registry cannot be followed now; empty if it can."""
    return events[-1].reason if isinstance(events[-1], Stale) else ""


async def test_records_come_with_the_revisions_that_created_them(etcd: EmbeddedEtcd, url: str) -> None:
    async with quick(url) as (writer, events):
        first = await writer.change({"web/a": b"1"})
        second = await writer.change({"web/a": b"2", "web/b": b"2"})
        await eventually(lambda: Delta(second, {"web/a": b"2", "web/b": b"2"}) in events)
        deltas = [event.created for event in events if isinstance(event, Delta)]
        assert deltas[-2:] == [{"web/a": first}, {"web/a": first, "web/b": second}]
        async with quick(url) as (_, again):
            assert isinstance(again[0], Reset)
            assert again[0].created == {"web/a": first, "web/b": second}
