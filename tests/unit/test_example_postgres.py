"""The example of a provider does what every provider has to."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from discovery.testing import ProviderContract

SOURCE = Path(__file__).parents[2] / "examples/postgres/discovery_postgres.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("discovery_postgres", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class TestPostgres(ProviderContract):
    provider = _load().PostgresProvider

    def setup_method(self, method: object) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.sockets = Path(self.directory.name, "sockets")
        self.sockets.mkdir()
        self.config = {"address": "127.0.0.1", "sockets": self.sockets}

    def teardown_method(self, method: object) -> None:
        self.directory.cleanup()

    def arrange(self, world: int) -> None:
        (self.sockets / ".s.PGSQL.5432").touch()
        (self.sockets / ".s.PGSQL.5432.lock").touch()
        second = self.sockets / ".s.PGSQL.5433"
        second.touch() if world else second.unlink(missing_ok=True)

    @contextmanager
    def blind(self) -> Iterator[None]:
        elsewhere = self.sockets.with_name("elsewhere")
        self.sockets.rename(elsewhere)
        yield
        elsewhere.rename(self.sockets)
