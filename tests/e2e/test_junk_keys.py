"""Point 22. A change behind very many rejected keys is seen within seconds, and what is shown of them is bounded."""

import asyncio
import time
from typing import Any

import pytest
from daemons import Starter

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, require_program
from discovery.testing.etcd import EtcdWriter

pytestmark = [pytest.mark.timeout(300), pytest.mark.warm]

WRITERS = 16
CONSUMER = """
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    pass
"""


async def write_junk(url: str, count: int) -> None:
    """Each key in a revision of its own, as separate clients write."""
    async with EtcdWriter(url) as writer:
        numbers = iter(range(count))

        async def write() -> None:
            for number in numbers:
                await writer.change({f"junk/b{number}": b"nonsense"})

        await asyncio.gather(*(write() for _ in range(WRITERS)))


@pytest.mark.costly
@pytest.mark.parametrize(("count", "seconds"), [(8_000, 10), pytest.param(30_000, 50, marks=pytest.mark.exhaustive)])
def test_a_change_behind_many_rejected_keys_is_seen_within_seconds(
    start_daemon: Starter, install_plugin: Any, count: int, seconds: int
) -> None:
    """Point 22. 12,000 took 33 s, and 30,000 took 150 s: the cost was quadratic."""
    require_program("etcd")
    install_plugin("notified", CONSUMER)
    with EmbeddedEtcd() as etcd:
        daemon = start_daemon("--plugin", "notified", "--registry", f"{etcd.url}/services")
        eventually_sync(daemon.is_ready, timeout=30)
        asyncio.run(write_junk(f"{etcd.url}/services", count))
        begun = time.monotonic()
        etcd.ctl("put", "/services/web/b1", "10.0.0.1:80")
        eventually_sync(lambda: "web" in daemon.get("/api/snapshot")[1]["services"], timeout=seconds)
        print(f"seen after {time.monotonic() - begun:.2f} s")
        snapshot = daemon.get("/api/snapshot")[1]
        assert len(snapshot["rejected"]) + snapshot["more_rejected"] == count
        assert len(snapshot["rejected"]) <= 1000
        assert f"discovery_rejected_records {float(count)}" in daemon.get("/metrics")[1]
