"""1,000 address changes at once in a section of 1,000 servers, under load: when HAProxy has them, and the proof.

Ours is what a user starts, with the default checks. Every server of the service `web` moves to another port, by puts
in ten transactions of etcd at once. Time begins before these. `put` is when etcd has answered, `live` when HAProxy has
all the new addresses, `verified` when the consumer has read the servers back and has nothing more to apply. wrk asks
for the service meanwhile.

    python benchmarks/bursts.py [--rounds N] [--haproxy PATH ...] [--json]
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
from _haproxy import (
    Load,
    add_haproxy_argument,
    ask,
    binaries,
    busy,
    changes,
    command,
    daemon,
    origins,
    run_directory,
    status,
    verdict,
    version,
)

from discovery import Backend
from discovery.codec import encode
from discovery.registry import RegistryURL
from discovery.registry.etcd.messages import TXN, PutRequest, RequestOp, TxnRequest
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port

SERVERS = 1000
BAR = 1.0
"""The largest number of seconds until all is verified."""
TOGETHER = 100
"""Puts in a transaction: etcd's limit is 128."""
POLL = 0.01
PORT_COLUMN = 18
"""Column of `show servers state`."""


def backends(port: int) -> list[Backend]:
    """Return the servers at this port."""
    return [
        Backend("web", f"s{number:04}", f"127.1.{number // 250}.{1 + number % 250}", port) for number in range(SERVERS)
    ]


def ports(stats_socket: Path) -> set[str]:
    """Return the ports of HAProxy's servers."""
    rows = (line.split() for line in command(stats_socket, "show servers state web").splitlines())
    return {row[PORT_COLUMN] for row in rows if len(row) > PORT_COLUMN and not row[0].startswith("#")}


class Writer:
    """Writes records with bare gRPC, without a lease."""

    def __init__(self, url: str) -> None:
        """Connect on demand."""
        parsed = RegistryURL.parse(url)
        self._prefix = parsed.path.encode() + b"/"
        self._channel = grpc.aio.insecure_channel(parsed.endpoints[0])
        self._call = self._channel.unary_unary(TXN.path, TXN.request.SerializeToString, TXN.response.FromString)

    async def put(self, records: list[Backend]) -> None:
        """Write all records, and return when etcd has them."""
        puts = [
            RequestOp(request_put=PutRequest(key=self._prefix + each.key.encode(), value=encode(each)))
            for each in records
        ]
        batches = [puts[start : start + TOGETHER] for start in range(0, len(puts), TOGETHER)]
        await asyncio.gather(*(self._call(TxnRequest(success=batch)) for batch in batches))

    async def close(self) -> None:
        """Disconnect."""
        await self._channel.close()


async def until(condition: Callable[[], bool]) -> float:
    """Return the instant at which the condition is first seen."""
    deadline = time.perf_counter() + 60
    while not await asyncio.to_thread(condition):
        if time.perf_counter() > deadline:
            raise RuntimeError("not converged within 60 s")
        await asyncio.sleep(POLL)
    return time.perf_counter()


async def bursts(haproxy: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one HAProxy."""
    times: dict[str, list[float]] = {"put": [], "live": [], "verified": []}
    requests = failed = 0
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        directory = stack.enter_context(run_directory())
        first, second = stack.enter_context(origins(haproxy, 2))
        url = f"{etcd.url}/burst"
        writer = Writer(url)
        await writer.put(backends(first))
        front, admin = free_port(), free_port()
        stack.enter_context(daemon(url, directory, haproxy, {"web": f"bind = '127.0.0.1:{front}'"}, admin))
        eventually_sync(lambda: ask(front) == str(first).encode(), timeout=60)
        stats = directory / "run" / "edge" / "stats.sock"
        before = command(stats, "show info").split("Pid: ")[1].split()[0]
        await asyncio.sleep(1)

        def is_settled() -> bool:
            [consumer] = status(admin, "/api/consumers")["consumers"]
            return consumer["lag_seconds"] == 0 and consumer["phase"] == "waiting"

        for number in range(rounds):
            port = (second, first)[number % 2]
            with (
                Load(f"http://127.0.0.1:{front}/", directory, keep_alive=True) as kept,
                Load(f"http://127.0.0.1:{front}/", directory, keep_alive=False) as closed,
            ):
                await asyncio.sleep(0.5)
                begun = time.perf_counter()
                await writer.put(backends(port))
                times["put"].append(time.perf_counter() - begun)
                wanted = {str(port)}
                times["live"].append(await until(lambda wanted=wanted: ports(stats) == wanted) - begun)
                times["verified"].append(await until(is_settled) - begun)
                await asyncio.sleep(0.5)
                for each in (kept, closed):
                    answered, lost = await asyncio.to_thread(each.stop)
                    requests, failed = requests + answered, failed + lost
        await writer.close()
        after = command(stats, "show info").split("Pid: ")[1].split()[0]
        ways = changes(admin)
    figures: dict[str, Any] = {"haproxy": version(haproxy), "rounds": rounds}
    for name, values in times.items():
        figures[f"{name}_seconds"] = statistics.median(values)
        figures[f"{name}_worst_seconds"] = max(values)
    figures |= {"changes": ways, "requests": requests, "failed": failed, "same_worker": before == after}
    figures["met"] = figures["verified_seconds"] < BAR and not ways["reload"] and not failed and before == after
    return figures


def main() -> None:
    """Print a few lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    add_haproxy_argument(parser)
    arguments = parser.parse_args()
    rows = [asyncio.run(bursts(haproxy, arguments.rounds)) for haproxy in binaries(arguments.haproxy)]
    if arguments.json:
        print(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=2))
        return
    for row in rows:
        print(f"{row['haproxy']}: median (worst) of {row['rounds']} bursts of {SERVERS} address changes")
        for name in ("put", "live", "verified"):
            print(f"  {name:9}{row[f'{name}_seconds']:6.2f} s ({row[f'{name}_worst_seconds']:.2f} s)")
        print(f"  changes at run time {row['changes']['runtime']}, reloads {row['changes']['reload']}", end="")
        print(f", {row['requests']} requests, {row['failed']} failed")
        print(f"  bar {BAR:g} s, no reload, no failed request: {verdict(row['met'])}")
    print(f"load of the machine: {busy(os.getloadavg())}")


if __name__ == "__main__":
    main()
