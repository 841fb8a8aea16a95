"""The contract of the memory registry, from which tests derive registries with a single fault."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from discovery.registry import Lease
from discovery.registry.memory import MemoryLease, MemoryRegistry
from discovery.testing import RegistryContract


class MemoryContract(RegistryContract):
    ttl = 0.2
    kind: type[MemoryRegistry] = MemoryRegistry

    def setup_method(self, method: object) -> None:
        self.registry = self.kind()

    def open(self) -> MemoryRegistry:
        return self.registry

    async def write(self, key: str, value: bytes) -> None:
        self.registry.put_raw(key, value)

    async def remove(self, key: str) -> None:
        self.registry.delete_raw(key)

    async def expire(self, lease: Lease) -> None:
        assert isinstance(lease, MemoryLease)
        lease.freeze()

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.registry.set_stale("cut")
        try:
            yield
        finally:
            self.registry.set_fresh()


class WithLeases(MemoryRegistry):
    """A registry whose leases are of the class `lease`."""

    lease: type[MemoryLease] = MemoryLease

    async def open_lease(self, owner: str, ttl: float) -> MemoryLease:
        self.check()
        return self.lease(self, owner, ttl)


def leasing(kind: type[MemoryLease]) -> type[MemoryRegistry]:
    """A registry with leases of this class, named after the class."""
    return type(kind.__name__, (WithLeases,), {"lease": kind})


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what never comes: everything is in memory."""
    monkeypatch.setattr("discovery.testing.follower.PATIENCE", 1.0)
    monkeypatch.setattr("discovery.testing.outages.OUTAGE_SECONDS", 1.0)
    monkeypatch.setattr("discovery.testing.place.CALL_SECONDS", 1.0)
    monkeypatch.setattr("discovery.testing.place.END_SECONDS", 0.2)
