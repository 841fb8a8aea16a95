"""A consumer and a provider whose methods are plain functions, and a mixture; also a subject for type checkers."""

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from discovery import (
    Candidate,
    Consumer,
    Context,
    Health,
    Inventory,
    PluginConfig,
    Provider,
    Sample,
    Update,
    Validation,
)
from discovery.testing import backend


class Options(PluginConfig):
    tag: str = ""
    path: Path = Path("addresses")


class Plain(Consumer[Options]):
    """Writes the addresses into a file. Each method notes its name and thread in `calls`."""

    Config = Options
    calls: list[tuple[str, int]] = []

    def _note(self, name: str) -> None:
        self.calls.append((name, threading.get_ident()))

    @property
    def resident(self) -> bool:
        return False

    @property
    def _file(self) -> Path:
        return self.context.run_dir / self.config.path

    def setup(self) -> None:
        self._note("setup")

    def apply(self, update: Update) -> None:
        self._note("apply")
        new = self._file.with_suffix(".new")
        new.write_text(self._text(update))
        new.replace(self._file)

    def preview(self, update: Update) -> str:
        before = self._file.read_text() if self._file.exists() else ""
        diff = unified_diff(before.splitlines(), self._text(update).splitlines(), lineterm="")
        return "".join(f"{line}\n" for line in diff)

    def validate(self, update: Update) -> Validation:
        return Validation(unchecked=("nothing was looked at",))

    def reconfigure(self, config: Options) -> bool:
        self._note("reconfigure")
        self.config = config
        return True

    def health(self) -> Health:
        return Health(detail=f"tag {self.config.tag}")

    def metrics(self) -> Iterable[Sample]:
        return ()

    def inspect(self) -> Mapping[str, Any]:
        self._note("inspect")
        return {"tag": self.config.tag}

    def hand_over(self) -> tuple[socket.socket, ...]:
        self._note("hand_over")
        return ()

    def end_drain(self) -> None:
        pass

    @classmethod
    def end_orphans(cls, context: Context) -> Mapping[int, str]:
        return {}

    def teardown(self) -> None:
        self._note("teardown")

    @staticmethod
    def _text(update: Update) -> str:
        lines = []
        for each in update.snapshot.backends():
            described = [each.service, each.id, each.port, each.weight, each.state.value, dict(each.labels)]
            lines += [json.dumps([address, *described]) for address in update.addresses_of(each)]
        return "".join(f"{line}\n" for line in lines)


class Mixed(Plain):
    """Inherits plain functions beside coroutine functions of its own."""

    async def inspect(self) -> Mapping[str, Any]:  # type: ignore[override]  # for type checkers, an author chooses once for a class
        return {"mixed": self.config.tag}


class Defaults(Consumer[Options]):
    """Calls the defaults of the base class, which may be awaited and need not be."""

    async def setup(self) -> None:
        super().setup()

    def teardown(self) -> None:
        super().teardown()

    async def apply(self, update: Update) -> None:
        pass


class Finds(Provider[Options]):
    """Finds a backend at the port that the file `path` names, by a plain generator that blocks."""

    Config = Options
    steps: list[int] = []

    def setup(self) -> None:
        pass

    def discover(self) -> Iterator[Inventory]:
        try:
            while True:
                self.steps.append(threading.get_ident())
                yield Inventory((Candidate(backend(port=int(self.config.path.read_text()))),))
                time.sleep(0.01)
        finally:
            self.steps.append(0)

    def validate(self) -> Validation:
        return Validation()

    def health(self) -> Health:
        return Health()

    def teardown(self) -> None:
        pass
