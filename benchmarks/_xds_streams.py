"""The consumer `xds` without a daemon, and many streams of simulated Envoys to one."""

import asyncio
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import structlog
from _xds_prototype import Prototype

from discovery import Backend, Context, Update, diff
from discovery.testing import free_port, snapshot
from discovery_xds.config import XdsConfig
from discovery_xds.consumer import XdsConsumer
from discovery_xds.protocol.stream import Stream

sys.path.append(str(Path(__file__).parents[1] / "plugins/xds/tests/support"))


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered) * 1000, 2),
        "p95": round(ordered[int(len(ordered) * 0.95)] * 1000, 2),
    }


class Driven:
    """The consumer without a daemon."""

    def __init__(self, directory: Path, listen: str, *, prototype: bool = False, **options: Any) -> None:
        """Configure the consumer, or else the prototype."""
        config = XdsConfig.model_validate({"listen": listen, **options})
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        context = Context("xds", directory, structlog.get_logger())
        self.consumer: Any = Prototype(config) if prototype else XdsConsumer(config, context)
        self.before: Any = None

    async def apply(self, revision: int, backends: list[Backend]) -> None:
        """Apply a state."""
        state = snapshot(*backends, revision=revision)
        update = Update(state, self.before, diff(self.before, state))
        self.before = state
        await self.consumer.apply(update)

    @property
    def streams(self) -> list[Stream]:
        """The streams of the clients."""
        server = self.consumer._server  # noqa: SLF001 - `inspect` shows 1,000 nodes at most, and takes longer
        return list(server.streams) if server is not None else []

    async def until_live(self, revision: int, streams: int) -> None:
        """Wait until as many clients have applied the revision."""
        while sum(each.live_revision == revision for each in self.streams) < streams:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)


def serve_streams(pipe: Connection, listen: str, streams: int, changes: int) -> None:
    """Serve on one core, change one backend a second, and tell how long each change took and the processor's time."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            driven = Driven(Path(directory), listen)
            await driven.consumer.setup()
            backends = [Backend(f"s{n % 50}", f"b{n}", f"10.0.0.{n & 255}", 80) for n in range(200)]
            await driven.apply(1, backends)
            pipe.send("ready")
            await driven.until_live(1, streams)
            took = []
            used, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            for number in range(changes):
                started = time.perf_counter()
                backends[0] = Backend("s0", "b0", f"10.1.{number >> 8}.{number & 255}", 80)
                await driven.apply(number + 2, backends)
                await driven.until_live(number + 2, streams)
                took.append(time.perf_counter() - started)
                await asyncio.sleep(max(0.0, started + 1 - time.perf_counter()))
            seconds, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
            share = (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / seconds
            pipe.send(
                {
                    "streams": streams,
                    "change_live_everywhere": milliseconds(took),
                    "slowest": round(max(took) * 1000),
                    "core": round(share, 2),
                    "rss_mib": round(now.ru_maxrss / 1024),
                    "ok": max(took) < 1 and share < 1,
                }
            )
            await asyncio.to_thread(pipe.recv)  # the clients have ended
            await driven.consumer.teardown()

    asyncio.run(run())


async def follow(listen: str) -> None:
    """Follow as Envoy does: all clusters, and then the endpoints of each; confirm everything."""
    from xds_driving import raw_client

    from discovery_xds.protocol.catalog import TYPE_URLS, Kind

    kinds = {url: kind for kind, url in TYPE_URLS.items()}
    async with raw_client(listen, delta=True) as client:
        await client.ask(Kind.CLUSTER)
        first = await client.read_and_confirm(Kind.CLUSTER)
        await client.ask(Kind.ENDPOINTS, *(each.name for each in first.resources))
        with suppress(grpc.aio.AioRpcError, TypeError):  # the server ends the stream
            while True:
                response = await client.read()
                await client.ask(kinds[response.type_url], nonce=response.nonce)


def many_streams(streams: int, changes: int) -> dict[str, Any]:
    """Measure the server with many streams, in a process of its own."""
    listen = f"127.0.0.1:{free_port()}"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_streams, args=(theirs, listen, streams, changes))
    server.start()
    ours.recv()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    async def run() -> Any:
        clients = [asyncio.ensure_future(follow(listen)) for _ in range(streams)]
        found = await asyncio.to_thread(ours.recv)
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        return found

    found = asyncio.run(run())
    ours.send("end")
    server.join(10)
    return dict(found)
