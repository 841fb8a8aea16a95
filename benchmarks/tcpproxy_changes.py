"""What changes of the registry cost those who connect through the TCP proxy meanwhile.

64 clients with a connection per request, over three backends of which two come and go, 50 changes a second in all, in
turns with the same load while nothing changes. The ratio is that of the medians of p99; no request may fail.

    python benchmarks/tcpproxy_changes.py [--rounds N] [--seconds N] [--json]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Self

from tcpproxy import LOADS, Figures, origin, press, raise_limit, register, start

from discovery import Backend
from discovery.registry import open_registry

RATE = 50.0
NEEDED = 1.5


class Changes:
    """Puts and deletes records, 50 a second, until it is stopped; the first backend stays. A context manager."""

    def __init__(self, directory: Path, ports: list[int]) -> None:
        """Prepare."""
        self.made = 0
        self._url, self._ports = f"file://{directory}/registry", ports[1:]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._change()))

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    async def _change(self) -> None:
        registry = open_registry(self._url)
        lease = await registry.open_lease("benchmark", 600)
        begun = time.perf_counter()
        for number in count():
            backend = Backend("web", f"b{number % 2}", "127.0.0.1", self._ports[number % 2], weight=1 + number % 7)
            if number % 4 < 2:
                await lease.put(backend)
            else:
                await lease.delete(backend)
            self.made += 1
            if self._stop.is_set():
                break
            await asyncio.sleep(max(0.0, begun + (number + 1) / RATE - time.perf_counter()))
        await lease.close()
        await registry.close()


def changing(rounds: int, seconds: int) -> dict[str, Any]:
    """p99 of connections per request, quiet and changing in turns."""
    load = next(load for load in LOADS if load.clients > 1 and load.headers)
    runs: dict[str, list[Figures]] = {"quiet": [], "changing": []}
    made = 0
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="discovery-bench-")))
        ports = stack.enter_context(origin(directory))
        register(directory, {"a": ports[0]})
        ours = start(stack, "ours", directory, ports[0])
        for _ in range(rounds):
            runs["quiet"].append(press(ours, load, seconds, directory))
            with Changes(directory, ports) as changes:
                runs["changing"].append(press(ours, load, seconds, directory))
            made += changes.made
    p99 = {name: 1e3 * statistics.median(run.p99 for run in each) for name, each in runs.items()}
    return {
        "changes": made,
        "changes_per_second": made / (rounds * seconds),
        "requests": {name: sum(run.requests for run in each) for name, each in runs.items()},
        "errors": {name: sum(run.errors for run in each) for name, each in runs.items()},
        "p99_ms": p99,
        "ratio": p99["changing"] / p99["quiet"],
        "needed": NEEDED,
    }


def main() -> None:
    """Print a few lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=12, help="of each run of wrk")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    raise_limit()
    result = changing(arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['changes']} changes, {result['changes_per_second']:.0f} a second")
    for name, p99 in result["p99_ms"].items():
        print(f"{name:9} {result['requests'][name]:>8} requests, {result['errors'][name]} failed, p99 {p99:.2f} ms")
    verdict = "met" if result["ratio"] <= NEEDED else "NOT met"
    print(f"ratio {result['ratio']:.2f}, needed at most {NEEDED}: {verdict}")


if __name__ == "__main__":
    main()
