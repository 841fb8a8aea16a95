"""An instance of a consumer from its setup to its teardown, driven as the core drives instances."""

import inspect
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from discovery.model import Snapshot, diff
from discovery.plugin import AnyConsumer, Update
from discovery.testing.clauses import BrokenError
from discovery.testing.consumers.place import ConsumerPlace
from discovery.testing.consumers.states import Named, copy_of
from discovery.testing.recorder import Recorder
from discovery.testing.watching import limited

CALL_SECONDS = 10.0
"""Seconds for a call of a plugin: the core's own limits are longer, and consumers take milliseconds."""
STOP_SECONDS = 10.0
"""Seconds that the core gives every consumer to stop; see `stop_seconds`."""
_LARGE = 1_000_000
"""Bytes of a file whose contents are not compared."""
_TRACKED = 50
"""Files of a consumer that are looked at before each of its file operations."""
_PRIVATE_ENDINGS = (".log", ".pid", ".lock", ".sock", ".tmp", ".swp")
"""Ends of the names of files that no other program reads as a whole."""


@dataclass(frozen=True)
class Raised:
    """The result of `world` where `world` raised an exception of type `kind`: there is no effect yet."""

    kind: type[Exception]


async def call(name: str, seconds: float, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a method of a plugin, synchronous or not, and return its result. `seconds` limits the call."""
    with limited(name, seconds):
        result = function(*arguments)
        return (await result) if inspect.isawaitable(result) else result


@dataclass
class FileChanges:
    """The replacements of a consumer's files that a reader could have met half done."""

    in_place: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


class Life:
    """An instance in `run_dir`. `begin` and `end` are its setup and teardown."""

    def __init__(
        self, contract: ConsumerPlace, make: Callable[..., AnyConsumer], run_dir: Path, state_dir: Path
    ) -> None:
        """Prepare. `make` makes the consumer from the directories and a function for requests to apply."""
        self.run_dir, self.state_dir = run_dir, state_dir
        self.previous: Snapshot | None = None
        self.seconds: list[float] = []
        self.requests = self.all_requests = 0
        """The requests to apply that `apply` itself has made, and those of any time."""
        self.files = FileChanges()
        self.mutated: list[str] = []
        self.written: set[str] = set()
        self.moved: set[tuple[str, str]] = set()
        self.lookups: set[str] = set()
        self._contract = contract
        self._applying: int | None = None
        self.consumer = make(run_dir, state_dir)
        self._given = getattr(self.consumer, "config", None)
        self._config = dump_of(self._given)

    async def begin(self) -> None:
        """Set the consumer up."""
        await self._recorded(lambda: call("setup", CALL_SECONDS, self.consumer.setup))

    async def end(self) -> None:
        """Tear the consumer down."""
        limit = STOP_SECONDS
        stated: Any = self.consumer.stop_seconds
        if isinstance(stated, int | float):
            limit = max(limit, float(stated))
        await call(f"teardown, with stop_seconds of {limit:g},", limit, self.consumer.teardown)

    async def apply(self, state: Named, *, restarted: bool = False, operator_request: bool = False) -> None:
        """Apply `state`, as the core does after the state that was applied last; `restarted`: as the first one."""
        previous = None if restarted else self.previous
        update = Update(
            state.snapshot, previous, diff(previous, state.snapshot), state.addresses, operator_request=operator_request
        )
        is_small = len(state.snapshot.services) < 10 and all(len(s) < 100 for s in state.snapshot.services.values())
        before = copy_of(state.snapshot) if is_small else None
        contents = self._contents() if is_small else {}
        tracked = [*contents][:_TRACKED]
        missed: set[Path] = set()

        def look() -> None:
            missed.update(path for path in tracked if not path.is_symlink() and not path.exists())

        begun = time.monotonic()
        self._applying = threading.get_ident()
        try:
            applying = partial(call, "apply", CALL_SECONDS, self.consumer.apply, update)
            await self._recorded(applying, look, has_addresses=update.addresses is not None)
        finally:
            self._applying = None
            self.seconds.append(time.monotonic() - begun)
        self.previous = state.snapshot
        if before is not None:
            self._compare(before, state.snapshot, contents, missed)

    def update(self, state: Named, previous: Named | None) -> Update:
        """Return the update from `previous` to `state`, for a preview or a validation."""
        before = previous.snapshot if previous else None
        return Update(state.snapshot, before, diff(before, state.snapshot), state.addresses)

    def world(self) -> object:
        """Return the effect now, comparable by `==`."""
        return self.world_in(self._contract, self.run_dir)

    @staticmethod
    def world_in(contract: ConsumerPlace, run_dir: Path) -> object:
        """Return the effect in `run_dir` by the function of `contract`."""
        try:
            with limited("world() of the contract", CALL_SECONDS):
                return contract.world(run_dir)
        except Exception as error:  # noqa: BLE001 - the author's code; before a first apply there may be nothing
            return Raised(type(error))

    def paths(self) -> list[Path]:
        """Return the files in and below the directories of the instance."""
        return [path for top in (self.run_dir, self.state_dir) for path in sorted(top.rglob("*")) if path.is_file()]

    def names(self) -> list[str]:
        """Return the files in and below the run directory, relative to the directory."""
        return sorted(str(path.relative_to(self.run_dir)) for path in self.run_dir.rglob("*") if path.is_file())

    async def _recorded(
        self, function: Callable[[], Any], look: Callable[[], None] = lambda: None, *, has_addresses: bool = False
    ) -> None:
        with Recorder(look) as recorder:
            try:
                await function()
            finally:
                self.written.update(recorder.written)
                self.moved.update(recorder.moved)
                if has_addresses:
                    self.lookups.update(each for each in recorder.events if each.startswith("socket.get"))

    def requested(self) -> None:
        """Count a request to apply, and whether `apply` itself makes the request."""
        self.all_requests += 1
        if self._applying == threading.get_ident():
            self.requests += 1

    def _contents(self) -> dict[Path, tuple[int, bytes]]:
        found = {}
        endings = (*_PRIVATE_ENDINGS, *self._contract.edited)
        for path in self.paths():
            try:
                if not path.name.endswith(endings) and path.stat().st_size < _LARGE:
                    found[path] = path.stat().st_ino, path.read_bytes()
            except OSError:
                continue
        return found

    def _compare(
        self, before: Snapshot, after: Snapshot, was: Mapping[Path, tuple[int, bytes]], missed: set[Path]
    ) -> None:
        if before != after or [*before.backends()] != [*after.backends()]:
            self.mutated.append("the snapshot")
        if self._config != dump_of(self._given):
            self.mutated.append("the configuration")
        now = self._contents()
        for path in was.keys() & now.keys():
            (inode, old), (same, new) = was[path], now[path]
            if old != new and inode == same and not (old and new.startswith(old)):
                self.files.in_place.append(str(path.relative_to(self.run_dir.parent)))
            elif path in missed:
                self.files.absent.append(str(path.relative_to(self.run_dir.parent)))


def dump_of(config: object) -> object:
    """Return the present options of a configuration, to compare them with later ones."""
    dump = getattr(config, "model_dump", None)
    try:
        return dump() if dump else None
    except Exception as error:
        raise BrokenError("a configuration that can be dumped", repr(error)) from error
