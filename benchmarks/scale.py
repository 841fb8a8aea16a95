"""What the core costs at 10,000 backends: initial sync, memory, and CPU for each change, with real etcd.

The core is measured in a process of its own: registry, watcher, runner and a consumer that does nothing, so no HAProxy.
CPU is the whole process's, user and system, gRPC's threads included; it is divided by the number of changes.

    python benchmarks/scale.py [--changes N] [--json]
"""

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import resource
import tempfile
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog

from discovery import Backend, Consumer, PluginConfig, Update
from discovery.embedded import EmbeddedEtcd
from discovery.registry import open_registry
from discovery.runner import Instance, Runner
from discovery.watcher import observe

SHAPES = {"1,000 services x 10": (1000, 10), "1 service x 10,000": (1, 10_000)}
RATE = 100.0
BUSY_WRITERS = 50


class Nothing(Consumer[PluginConfig]):
    """Applies nothing, and tells the revision it has reached."""

    reached = 0

    async def apply(self, update: Update) -> None:
        """Note the revision."""
        Nothing.reached = update.snapshot.revision


def follow(url: str, pipe: "multiprocessing.connection.Connection") -> None:
    """The measured process: tells its figures whenever asked."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    begun, cpu = time.perf_counter(), time.process_time()

    async def main() -> None:
        with tempfile.TemporaryDirectory() as run_dir:
            runner = Runner(
                Instance("nothing", "nothing", Nothing, PluginConfig()), Path(run_dir), structlog.get_logger()
            )
            runner.start()
            threading.Thread(target=answer, daemon=True).start()
            async with aclosing(observe(open_registry(url))) as observations:
                async for observation in observations:
                    if observation.snapshot is not None:
                        runner.offer(observation.snapshot)

    def answer() -> None:
        while True:
            wanted = pipe.recv()
            while Nothing.reached < wanted:
                time.sleep(0.005)
            usage = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(
                {
                    "seconds": time.perf_counter() - begun,
                    "cpu": time.process_time() - cpu,
                    "rss_mib": usage.ru_maxrss / 1024,
                }
            )

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
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=follow, args=(url, theirs), daemon=True)
    process.start()

    async def figures() -> dict[str, float]:
        ours.send(await revision_of(url))
        return await asyncio.to_thread(ours.recv)

    try:
        synced = await figures()
        idle_from = time.perf_counter()
        await asyncio.sleep(2)
        idle = await figures()
        idle_rate = (idle["cpu"] - synced["cpu"]) / (time.perf_counter() - idle_from)
        begun = time.perf_counter()
        for number in range(changes):
            old = everything[number * 7919 % len(everything)]
            await lease.put(Backend(old.service, old.id, "10.255.0.1", 1 + number % 65535))
            await asyncio.sleep(max(0.0, begun + (number + 1) / RATE - time.perf_counter()))
        after = await figures()
        idle_cpu = idle_rate * (after["seconds"] - idle["seconds"])
        return {
            "backends": len(everything),
            "sync_seconds": synced["seconds"],
            "sync_cpu_seconds": synced["cpu"],
            "rss_mib": synced["rss_mib"],
            "rss_mib_after_changes": after["rss_mib"],
            "idle_cpu_percent": 100 * idle_rate,
            "cpu_ms_per_change": 1000 * (after["cpu"] - idle["cpu"] - idle_cpu) / changes,
        }
    finally:
        process.kill()
        await lease.close()
        await registry.close()


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
    print(f"{'':22}{'sync':>9}{'CPU':>9}{'memory':>11}{'idle CPU':>10}{'CPU per change':>16}")
    for name, row in results.items():
        print(
            f"{name:22}{row['sync_seconds']:>7.2f} s{row['sync_cpu_seconds']:>7.2f} s{row['rss_mib']:>7.0f} MiB"
            f"{row['idle_cpu_percent']:>8.1f} %{row['cpu_ms_per_change']:>13.2f} ms"
        )


if __name__ == "__main__":
    main()
