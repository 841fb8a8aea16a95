"""The file registry keeps the contract, whoever writes the files: leases, editors, git, or an unmounted disk."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from discovery.registry import Lease
from discovery.registry.file import FileRegistry
from discovery.registry.file.lease import FileLease
from discovery.testing import RegistryContract


class TestContract(RegistryContract):
    ttl = 1.0

    def setup_method(self) -> None:
        self.root = Path(tempfile.mkdtemp())

    def teardown_method(self) -> None:
        shutil.rmtree(self.root)

    def open(self) -> FileRegistry:
        return FileRegistry(self.root)

    async def write(self, key: str, value: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(value)

    async def remove(self, key: str) -> None:
        (self.root / key).unlink()

    async def expire(self, lease: Lease) -> None:
        assert isinstance(lease, FileLease)
        lease.abandon()
        await asyncio.sleep(lease.ttl)
        lease._heart = asyncio.create_task(lease._live())
