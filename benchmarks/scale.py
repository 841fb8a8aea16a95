"""What the core costs at 10,000 backends: initial sync, memory, and CPU for each change, with real etcd.

The core is measured in a process of its own: registry, watcher, resolving, history, runner and a consumer that does
nothing, so no HAProxy. CPU is the whole process's, user and system, gRPC's threads included, less what it takes when
idle; it is divided by the number of changes, which come one by one, 100 a second. The floor, in the same run, is a
process that only reads the same watch with bare gRPC and decodes nothing but protobuf.

    python benchmarks/scale.py [--changes N] [--json]
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from discovery import Backend, Consumer, PluginConfig, Update
from discovery.consuming.history import ChangeHistory
from discovery.consuming.resolving import Resolved, SnapshotResolver
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.consuming.watcher import observe
from discovery.registry import RegistryURL, open_registry
from discovery.registry.etcd.messages import WATCH, WatchCreateRequest, WatchRequest, range_end
from discovery.system.embedded import EmbeddedEtcd

SHAPES = {"1,000 services x 10": (1000, 10), "1 service x 10,000": (1, 10_000)}
RATE = 100.0
IDLE_SECONDS = 3.0
BUSY_WRITERS = 50


class Meter:
    """Tells, over a pipe and whenever asked, what this process has used once it has reached a revision."""

    def __init__(self, pipe: Pipe) -> None:
        """Begin to count."""
        self.reached = 0
        self._pipe = pipe
        self._begun, self._cpu = time.perf_counter(), time.process_time()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            wanted = self._pipe.recv()
            while self.reached < wanted:
                time.sleep(0.005)
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self._pipe.send(
                {
                    "seconds": time.perf_counter() - self._begun,
                    "cpu": time.process_time() - self._cpu,
                    "rss_mib": usage.ru_maxrss / 1024,
                }
            )


def core(url: str, pipe: Pipe) -> None:
    """The process that is measured."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    meter = Meter(pipe)

    class Nothing(Consumer[PluginConfig]):
        async def apply(self, update: Update) -> None:
            meter.reached = update.snapshot.revision

    async def main() -> None:
        with tempfile.TemporaryDirectory() as run_dir:
            runner = ConsumerRunner(
                ConsumerInstance("nothing", "nothing", Nothing, PluginConfig()), Path(run_dir), structlog.get_logger()
            )
            runner.start()
            history = ChangeHistory()

            def offer(resolved: Resolved) -> None:
                history.offered()
                runner.offer(*resolved)

            resolving = SnapshotResolver(
                structlog.get_logger(), offer, taken=lambda *step: history.take(*step, time.monotonic())
            )
            async with aclosing(observe(open_registry(url))) as observations:
                async for observation in observations:
                    if observation.snapshot is not None:
                        resolving.take(observation.snapshot)

    asyncio.run(main())


def floor(url: str, pipe: Pipe) -> None:
    """The least: read the watch."""
    parsed = RegistryURL.parse(url)
    meter = Meter(pipe)

    async def main() -> None:
        channel = grpc.aio.insecure_channel(parsed.endpoints[0])
        method = channel.stream_stream(WATCH.path, WATCH.request.SerializeToString, WATCH.response.FromString)
        stream = method()
        prefix = f"{parsed.path}/".encode()
        await stream.write(WatchRequest(create_request=WatchCreateRequest(key=prefix, range_end=range_end(prefix))))
        while True:
            meter.reached = (await stream.read()).header.revision

    asyncio.run(main())


def backends(services: int, each: int) -> Iterator[Backend]:
    """The registry's contents."""
    for service in range(services):
        for number in range(each):
            yield Backend(
                f"service-{service:04}", f"b{number:05}", f"10.{service % 200}.{number // 250}.{number % 250}", 80
            )


async def revision_of(url: str) -> int:
    """The revision of a fresh listing."""
    registry = open_registry(url)
    try:
        async with aclosing(observe(registry)) as observations:
            async for observation in observations:
                if observation.snapshot is not None:
                    return observation.snapshot.revision
    finally:
        await registry.close()
    raise RuntimeError("the watch ended")


async def measure(url: str, services: int, each: int, changes: int) -> dict[str, float]:
    """Fill the registry, sync a fresh process from it, and change one backend after another."""
    registry = open_registry(url)
    lease = await registry.open_lease("benchmark", 600)
    everything = list(backends(services, each))
    gate = asyncio.Semaphore(BUSY_WRITERS)

    async def put(backend: Backend) -> None:
        async with gate:
            await lease.put(backend)

    puts: list[Awaitable[None]] = [put(backend) for backend in everything]
    await asyncio.gather(*puts)
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Pipe] = {}
    processes = []
    for contestant in (core, floor):
        pipes[contestant.__name__], theirs = context.Pipe()
        processes.append(context.Process(target=contestant, args=(url, theirs), daemon=True))
        processes[-1].start()

    async def figures() -> dict[str, dict[str, float]]:
        revision = await revision_of(url)
        for pipe in pipes.values():
            pipe.send(revision)
        return {name: await asyncio.to_thread(pipe.recv) for name, pipe in pipes.items()}

    try:
        synced = await figures()
        await asyncio.sleep(IDLE_SECONDS)
        idle = await figures()
        begun = time.perf_counter()
        for number in range(changes):
            old = everything[number * 7919 % len(everything)]
            await lease.put(Backend(old.service, old.id, "10.255.0.1", 1 + number % 65535))
            await asyncio.sleep(max(0.0, begun + (number + 1) / RATE - time.perf_counter()))
        after = await figures()
    finally:
        for process in processes:
            process.kill()
        await lease.close()
        await registry.close()
    ours = {name: per_change(synced[name], idle[name], after[name], changes) for name in pipes}
    return {
        "backends": len(everything),
        "sync_seconds": synced["core"]["seconds"],
        "sync_cpu_seconds": synced["core"]["cpu"],
        "rss_mib": after["core"]["rss_mib"],
        "cpu_ms_per_change": ours["core"],
        "floor_cpu_ms_per_change": ours["floor"],
    }


def per_change(synced: dict[str, float], idle: dict[str, float], after: dict[str, float], changes: int) -> float:
    """Milliseconds of CPU for each change, less what the process takes when nothing changes."""
    idle_rate = (idle["cpu"] - synced["cpu"]) / (idle["seconds"] - synced["seconds"])
    return 1000 * (after["cpu"] - idle["cpu"] - idle_rate * (after["seconds"] - idle["seconds"])) / changes


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with EmbeddedEtcd() as etcd:
        for number, (name, shape) in enumerate(SHAPES.items()):
            url = f"{etcd.url}/bench-{number}"
            results[name] = asyncio.run(measure(url, *shape, arguments.changes))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'':22}{'sync':>9}{'CPU':>9}{'memory':>11}{'CPU per change':>16}{'bare gRPC':>11}{'ratio':>7}")
    for name, row in results.items():
        print(
            f"{name:22}{row['sync_seconds']:>7.2f} s{row['sync_cpu_seconds']:>7.2f} s{row['rss_mib']:>7.0f} MiB"
            f"{row['cpu_ms_per_change']:>13.2f} ms{row['floor_cpu_ms_per_change']:>8.2f} ms"
            f"{row['cpu_ms_per_change'] / row['floor_cpu_ms_per_change']:>7.1f}"
        )


if __name__ == "__main__":
    main()
