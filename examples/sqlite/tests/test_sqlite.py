"""The registry keeps the contract of registries."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from discovery import ConfigError
from discovery.registry import Lease, RegistryURL
from discovery.testing import RegistryContract, within

from discovery_sqlite import SqliteRegistry, from_url
from discovery_sqlite.lease import SqliteLease
from discovery_sqlite.store import Store, next_revision


class TestContract(RegistryContract):
    ttl = within(1.0)

    def setup_method(self, method: object) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name, "registry/records.sqlite")
        self.path.parent.mkdir()

    def teardown_method(self, method: object) -> None:
        self.directory.cleanup()

    def open(self) -> SqliteRegistry:
        return SqliteRegistry(self.path)

    async def write(self, key: str, value: bytes) -> None:
        with Store(self.path).changing() as database:
            record = (key, value, None, None, next_revision(database))
            database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", record)

    async def remove(self, key: str) -> None:
        with Store(self.path).changing() as database:
            database.execute("DELETE FROM records WHERE key = ?", (key,))
            next_revision(database)

    async def expire(self, lease: Lease) -> None:
        assert isinstance(lease, SqliteLease)
        with Store(self.path).changing() as database:
            database.execute("UPDATE leases SET expires = 0 WHERE id = ?", (lease.id,))

    @contextmanager
    def cut(self) -> Iterator[None]:
        elsewhere = self.path.parent.with_name("elsewhere")
        self.path.parent.rename(elsewhere)
        yield
        elsewhere.rename(self.path.parent)


@pytest.mark.parametrize("rest", ["", "host/path", "/path?option=1"])
def test_a_url_without_a_path_or_with_more_is_refused(rest: str) -> None:
    with pytest.raises(ConfigError):
        from_url(RegistryURL.parse(f"sqlite://{rest}"))
