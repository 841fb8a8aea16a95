"""A consumer that keeps its contract, from which tests derive consumers with a single fault."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from discovery import Backend, Consumer, Context, Health, PluginConfig, Sample, Update, Validation
from discovery.testing import ConsumerContract
from discovery.toolkit import write_atomically


class Options(PluginConfig):
    name: str = "backends.json"
    indent: int = 1


class Table(Consumer[Options]):
    """Writes a JSON document of every backend into its run directory."""

    Config = Options

    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.applies = 0
        self.count = 0

    @property
    def resident(self) -> bool:
        return False

    @property
    def path(self) -> Path:
        return self.context.run_dir / self.config.name

    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return {
            "service": backend.service,
            "id": backend.id,
            "addresses": list(update.addresses_of(backend)),
            "port": backend.port,
            "weight": backend.weight,
            "state": str(backend.state),
            "labels": dict(backend.labels),
        }

    def rows(self, update: Update) -> list[dict[str, Any]]:
        return [self.row(update, backend) for backend in update.snapshot.backends()]

    def text(self, update: Update) -> str:
        return json.dumps(self.rows(update), indent=self.config.indent) + "\n"

    def write(self, text: str) -> None:
        write_atomically(self.path, text.encode(), durable=False)

    async def apply(self, update: Update) -> None:
        self.write(self.text(update))
        self.applies += 1
        self.count = sum(1 for _ in update.snapshot.backends())

    async def preview(self, update: Update) -> str:
        before = self.path.read_text() if self.path.exists() else ""
        lines = difflib.unified_diff(before.splitlines(), self.text(update).splitlines(), lineterm="")
        return "\n".join(lines)

    async def validate(self, update: Update) -> Validation:
        return Validation(faults=() if self.config.name else ("the name is empty",))

    async def reconfigure(self, config: Options) -> bool:
        self.config = config
        return True

    async def health(self) -> Health:
        return Health(detail=f"{self.count} backends")

    def metrics(self) -> Iterable[Sample]:
        yield Sample("applies", self.applies)
        yield Sample("backends", self.count, kind="gauge")

    async def inspect(self) -> Mapping[str, Any]:
        return {"file": str(self.path), "backends": self.count}


class TableContract(ConsumerContract):
    consumer = Table
