"""The machine that a provider names in its inventories, in the default owner of its records."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from discovery import Candidate, Inventory, PluginConfig, Provider
from discovery.codec import Record, decode
from discovery.providing.provider import RunningProvider
from discovery.providing.runner import ProviderInstance
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.system.lookups import RememberedLookups
from discovery.system.owners import DefaultOwner, machine_id
from discovery.testing import backend, eventually, within


class Machines(PluginConfig):
    names: tuple[str, ...] = ()


class Finder(Provider[Machines]):
    """Finds one backend on a machine with each of the names, one after the other."""

    Config = Machines

    async def discover(self) -> Any:
        for number, name in enumerate(self.config.names):
            yield Inventory((Candidate(backend(id="a", port=80 + number)),), machine=name)
        await asyncio.Event().wait()


class Remembered(MemoryRegistry):
    """Keeps the owners of all leases."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: list[str] = []

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.owners.append(owner)
        return await super().open_lease(owner, ttl)


def decoded(registry: MemoryRegistry, port: int) -> Record | None:
    """Return the record once the record has the port."""
    record = decode("web/a", registry.records["web/a"])
    return record if isinstance(record, Record) and record.backend.port == port else None


async def registered(run_dir: Path, *names: str, owner: str = "") -> tuple[Sequence[str], dict[str, str]]:
    """Return the owners of the leases, and the problems, once the last inventory is registered."""
    instance = ProviderInstance("web", "finder", Finder, Machines(names=names), owner=owner)
    registry, log = Remembered(), structlog.get_logger()
    one = RunningProvider(instance, registry, run_dir, log, RememberedLookups(), lambda: None)
    one.start()
    try:
        record = await eventually(lambda: decoded(registry, 79 + len(names)))
        assert record.owner == one.status.owner == registry.owners[-1]
        return registry.owners, dict(one.status.runner.problems)
    finally:
        one.stop()
        assert await one.join(within(10))


async def test_the_default_owner_has_the_machine_that_the_provider_names(tmp_path: Path) -> None:
    (owner,), problems = await registered(tmp_path, "engine-1")
    assert owner.startswith(f"engine-1/web@{os.geteuid()}:")
    assert problems == {}
    assert (await registered(tmp_path, ""))[0] == [owner.replace("engine-1/", f"{machine_id()}/")]
    assert (await registered(tmp_path, "engine-1", owner="mine"))[0] == ["mine"]


async def test_an_owner_stays_while_the_provider_runs(tmp_path: Path) -> None:
    (owner,), _ = await registered(tmp_path, "engine-1", "engine-2", "")
    assert owner.startswith("engine-1/")


async def test_what_is_no_name_of_a_machine_is_a_problem_and_not_used(tmp_path: Path) -> None:
    for name in ("a/b", "a b", "x" * 200, "\x1b[31m"):
        (owner,), problems = await registered(tmp_path, name)
        assert owner.startswith(f"{machine_id()}/")
        assert problems.keys() == {"machine"}
        assert problems["machine"].isprintable()


def test_records_of_the_same_lock_on_this_machine_are_taken_over(tmp_path: Path) -> None:
    """A provider that learns to name its machine succeeds the same provider that did not."""
    before, now = DefaultOwner("web", tmp_path / "lock"), DefaultOwner("web", tmp_path / "lock", "engine-1")
    assert str(now) != str(before)
    assert now.succeeds(str(before))
    assert not before.succeeds(str(now))
    assert not now.succeeds(str(DefaultOwner("web", tmp_path / "lock", "engine-2")))
