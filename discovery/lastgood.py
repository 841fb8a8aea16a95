"""The last good snapshot on disk, so that a restart while the registry is away still serves."""

import asyncio
import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery.codec import validate
from discovery.documents import record
from discovery.errors import RecordError
from discovery.files import write_atomically
from discovery.model import Backend, Snapshot, State
from discovery.registry import RegistryURL
from discovery.rundir import base_run_dir, user_state_dir
from discovery.watcher import Observation

DEBOUNCE = 1.0
CONFIRM_EVERY = 15.0
MOST_OF_THE_TIME = 0.05


@dataclass(frozen=True, slots=True)
class Remembered:
    """A snapshot of an earlier run, and how many seconds ago it was last known to be true."""

    snapshot: Snapshot
    age: float


class LastGood:
    """Keeps the latest snapshot of one registry in a file, written a moment after a change and off the loop."""

    def __init__(self, state_dir: Path, registry: RegistryURL, log: FilteringBoundLogger) -> None:
        """The file is named after the registry, so that one is never taken for another."""
        name = hashlib.sha256(os.fsencode(str(registry))).hexdigest()[:16]
        self.path = state_dir / f"snapshot-{name}.json"
        self._log = log
        self._latest: Snapshot | None = None
        self._written: Snapshot | None = None
        self._stale = False
        self._failed: str | None = None
        self._changed = asyncio.Event()
        self._writing = threading.Lock()  # the last write, at the end, may meet one that is under way

    def observe(self, observation: Observation) -> None:
        """Remember the snapshot, soon, unless it is one that the registry no longer vouches for."""
        self._stale = observation.stale is not None
        if not self._stale and observation.snapshot is not self._latest:
            self._latest = observation.snapshot
            self._changed.set()

    async def run(self) -> None:
        """Write what changed, and mark what did not as still true, until cancelled; then write once more."""
        pause = DEBOUNCE
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CONFIRM_EVERY):  # wait_for would lose a cancellation (Python 3.11)
                        await self._changed.wait()
                    await asyncio.sleep(pause)
                self._changed.clear()
                begun = time.monotonic()
                await asyncio.to_thread(self._write)
                pause = max(DEBOUNCE, (time.monotonic() - begun) / MOST_OF_THE_TIME)
        finally:
            self._write()

    def load(self) -> Remembered | None:
        """What an earlier run remembered, if anything that can be read."""
        try:
            document = json.loads(self.path.read_bytes())
            backends = [Backend(**{**each, "state": State(each["state"])}) for each in document["backends"]]
            snapshot = Snapshot.of(document["revision"], map(validate, backends))
            age = max(0.0, time.time() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except (OSError, RecordError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("the remembered snapshot cannot be read", path=str(self.path), reason=str(error))
            return None
        return Remembered(snapshot, age)

    def _write(self) -> None:
        with self._writing:
            self._write_latest()

    def _write_latest(self) -> None:
        snapshot = self._latest
        if snapshot is None:
            return
        try:
            if snapshot is self._written:
                if not self._stale:
                    os.utime(self.path)  # how old it is counts from when it was last known to be true
                return
            # Not as registry records: what was read could be too long for one once it is written our way.
            document = {"revision": snapshot.revision, "backends": [record(each) for each in snapshot.backends()]}
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(document).encode(), 0o600)
            if self._failed is not None:
                self._log.info("the snapshot is remembered again", path=str(self.path))
            self._written, self._failed = snapshot, None
        except OSError as error:
            self._written = None
            if error.strerror != self._failed:
                self._failed = error.strerror
                reason = f"{error.strerror}; mend that, or choose another directory with --state-dir"
                self._log.warning("the snapshot cannot be remembered", path=str(self.path), reason=reason)


def state_dir(override: Path | None = None) -> Path:
    """Where state outlives a reboot: `override`, else systemd's, else /var/lib/discovery for root, else the user's."""
    if override is not None:
        return override
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/discovery")
    return user_state_dir() or base_run_dir() / "state"
