"""A single apply without a daemon."""

from pathlib import Path

from consumers import LOG, Recorder, instance, recorder

from discovery import Health, Snapshot
from discovery.consuming.resolving import Resolved
from discovery.daemon.once import apply_once
from discovery.hosting.directories import Directories
from discovery.testing import backend


async def test_a_consumer_that_is_unhealthy_after_the_apply_counts_as_failed(tmp_path: Path) -> None:
    async def health(self: Recorder) -> Health:
        return Health(ok=not self.updates, detail="service 'web' is left out")

    consumers = [instance(recorder(health=health), "partly"), instance(recorder(), "wholly")]
    resolved = Resolved(Snapshot.of(1, [backend()]), {})
    failed = await apply_once(consumers, resolved, Directories(tmp_path / "run", tmp_path / "state"), LOG)
    assert failed == {"partly": "service 'web' is left out"}
