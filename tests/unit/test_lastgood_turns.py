"""The remembered snapshot is written in turns with other threads: neither long at once, nor rarely because of it."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery.consuming import lastgood
from discovery.consuming.holding import Cause, Held, RememberedHolds
from discovery.consuming.lastgood import AT_ONCE, PACE, LastGood, Pace
from discovery.consuming.watcher import Observation
from discovery.registry import RegistryURL
from discovery.testing import backend, eventually, snapshot

URL = RegistryURL.parse("etcd://10.0.0.1:2379/services")
LARGE = snapshot(*(backend("web", f"b{number:05}") for number in range(10_000)), revision=7)
LEASES = {each.key: 10.0 for each in LARGE.backends()}
HELD = dict.fromkeys(LEASES, Held(Cause.RESET, None, None))


def last_good(directory: Path, pace: Pace = PACE) -> LastGood:
    memory = RememberedHolds(7, leases=LEASES, held=HELD)
    return LastGood(directory, URL, structlog.get_logger(), lambda: memory, pace=pace)


def test_one_large_service_is_encoded_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the JSON encoder keeps every other thread waiting."""
    encoded: list[int] = []
    dumps = json.dumps

    def recorded(document: Any) -> str:
        encoded.append(
            max([len(document), *(len(each) for each in document.values() if isinstance(each, dict))])
            if isinstance(document, dict)
            else len(document)
        )
        return dumps(document)

    kept = last_good(tmp_path)
    kept.observe(Observation(LARGE))
    monkeypatch.setattr(lastgood.json, "dumps", recorded)
    kept._write(kept._now())
    monkeypatch.undo()
    assert max(encoded) <= AT_ONCE
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    assert remembered.snapshot == LARGE
    assert (remembered.memory.leases, remembered.memory.held) == (LEASES, HELD)


def test_the_pauses_of_a_write_are_no_reason_to_rest(tmp_path: Path) -> None:
    kept = last_good(tmp_path, Pace(give_way=0.01))
    kept.observe(Observation(LARGE))
    begun, seconds = time.monotonic(), kept._write(kept._now())
    of_pauses = 0.01 * 10_000 / AT_ONCE
    assert 0 < seconds < time.monotonic() - begun - of_pauses


def test_a_slow_disk_is_a_reason_to_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = lastgood.write_atomically

    def slowly(*arguments: Any) -> None:
        time.sleep(0.2)
        write(*arguments)

    monkeypatch.setattr(lastgood, "write_atomically", slowly)
    kept = last_good(tmp_path)
    kept.observe(Observation(LARGE))
    assert kept._write(kept._now()) >= 0.2


async def test_at_the_end_no_write_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop waits for the last write, which waits for the write that is under way."""
    first = threading.Event()
    document = lastgood.backend_document

    def recorded(*arguments: Any) -> dict[str, Any]:
        first.set()
        return document(*arguments)

    monkeypatch.setattr(lastgood, "backend_document", recorded)
    some = snapshot(*(backend("web", f"b{number}") for number in range(5 * AT_ONCE)))
    kept = last_good(tmp_path, Pace(give_way=20.0))
    kept.observe(Observation(some))
    writing = asyncio.create_task(kept.run())
    await eventually(first.is_set)
    begun = time.monotonic()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert time.monotonic() - begun < 15  # less than one pause
    remembered = last_good(tmp_path).load()
    assert remembered is not None
    assert remembered.snapshot == some
