"""The contract of the memory registry, from which tests derive registries with a single fault."""

from collections.abc import Iterator
from contextlib import contextmanager

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
