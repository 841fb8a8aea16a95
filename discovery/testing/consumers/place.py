"""The place in which a consumer's contract is tested: what a derived class sets, and how instances are made."""

import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import structlog

from discovery.model import Snapshot
from discovery.plugin import AnyConsumer, Context
from discovery.testing.builders import backend, snapshot


class ConsumerPlace:
    """The attributes and methods that a derived class sets for a consumer."""

    consumer: ClassVar[type[AnyConsumer]]
    """The class under test."""
    config: ClassVar[Mapping[str, Any]] = {}
    """The consumer's options, as in the configuration file."""
    snapshots: ClassVar[tuple[Snapshot, Snapshot]] = (
        snapshot(backend(id="a"), revision=1),
        snapshot(backend(id="b", port=8081), backend(id="c", port=8082), revision=2),
    )
    """Two states of the registry, for which `world` returns different values. Other states are made of their backends,
    in the services that are there."""
    other_configs: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Other valid options, for a consumer with `reconfigure`. If empty, the tests change single options themselves."""
    outside: ClassVar[Sequence[Path]] = ()
    """Paths beside the run directory, the state directory and the paths in `config` that the consumer writes."""
    edited: ClassVar[Collection[str]] = ()
    """The ends of the names of files that the consumer changes in place, so that no reader finds half of a change."""
    budget: ClassVar[float] = 3.0
    """Seconds for the states of the registry that a slow consumer is brought to, beyond the most important ones."""

    def world(self, run_dir: Path) -> object:
        """Return the consumer's effect, comparable by `==`. By default the files in and below `run_dir`, by path."""
        return {
            str(path.relative_to(run_dir)): path.read_bytes() for path in sorted(run_dir.rglob("*")) if path.is_file()
        }

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object] | None:
        """Return a context in which `apply` fails for the instance in `run_dir`.

        None, the default: the files that the consumer writes fail as on a full disk.
        """
        return None

    @property
    def keeps_its_effect_in_files(self) -> bool:
        """True if the effect is the files in the run directory, which a preview can compare."""
        return type(self).world is ConsumerPlace.world

    @contextmanager
    def inheriting(self, sockets: tuple[socket.socket, ...]) -> Iterator[None]:
        """Offer `sockets` to the instances that are made within the block."""
        self._inherited = sockets
        try:
            yield
        finally:
            self._inherited = ()

    def listen(self, requested: Callable[[], None]) -> None:
        """Call `requested` whenever an instance asks for an apply."""
        self._requested = requested

    _inherited: tuple[socket.socket, ...] = ()
    _requested: Callable[[], None] = staticmethod(lambda: None)

    def _make(self, run_dir: Path, state_dir: Path | None = None) -> AnyConsumer:
        return ConsumerPlace._aside(self, run_dir, state_dir)

    def _aside(self, run_dir: Path, state_dir: Path | None = None) -> AnyConsumer:
        """Make an instance beside the instance whose effect `world` returns."""
        config = self.consumer.Config.model_validate(self.config)
        log, state = structlog.get_logger("contract"), state_dir or run_dir / "state"
        return self.consumer(config, Context("contract", run_dir, log, self._ask, self._inherited, state))

    def _ask(self) -> None:
        self._requested()
