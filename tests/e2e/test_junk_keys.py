"""Point 22. A change behind 30,000 rejected keys is seen within seconds, and what is shown of them is bounded."""

import asyncio
import time
from typing import Any

import pytest

from discovery.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, require_program
from discovery.testing.etcd import EtcdWriter

pytestmark = pytest.mark.timeout(300)

JUNK = 30_000
WRITERS = 16
CONSUMER = """
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    pass
"""


async def write_junk(url: str) -> None:
    """Each key in a revision of its own, as separate clients write."""
    async with EtcdWriter(url) as writer:
        numbers = iter(range(JUNK))

        async def write() -> None:
            for number in numbers:
                await writer.change({f"junk/b{number}": b"nonsense"})

        await asyncio.gather(*(write() for _ in range(WRITERS)))


def test_a_change_behind_thirty_thousand_rejected_keys_is_seen_within_seconds(
    start_daemon: Any, install_plugin: Any
) -> None:
    """Point 22."""
    require_program("etcd")
    install_plugin("notified", CONSUMER)
    with EmbeddedEtcd() as etcd:
        daemon = start_daemon("--plugin", "notified", "--registry", f"{etcd.url}/services")
        eventually_sync(daemon.is_ready, timeout=30)
        asyncio.run(write_junk(f"{etcd.url}/services"))
        begun = time.monotonic()
        etcd.ctl("put", "/services/web/b1", "10.0.0.1:80")
        eventually_sync(lambda: "web" in daemon.get("/api/snapshot")[1]["services"], timeout=50)
        print(f"seen after {time.monotonic() - begun:.2f} s")
        snapshot = daemon.get("/api/snapshot")[1]
        assert len(snapshot["rejected"]) + snapshot["more_rejected"] == JUNK
        assert len(snapshot["rejected"]) <= 1000
        assert f"discovery_rejected_records {float(JUNK)}" in daemon.get("/metrics")[1]
