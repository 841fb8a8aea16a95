"""The first life of a consumer, in which the contract brings the consumer to every kind of state."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discovery.plugin import AnyConsumer, AnyProvider, Consumer
from discovery.testing.clauses import BrokenError
from discovery.testing.consumers.life import CALL_SECONDS, FileChanges, Life, call
from discovery.testing.consumers.session import Ending, Session
from discovery.testing.consumers.states import MARK, Named, watching_labels, with_labels
from discovery.testing.recorder import Recorder
from discovery.testing.support import within
from discovery.testing.watching import HangError, limited

_SETTLE = 0.1
"""Seconds after which an effect that comes later than the end of `apply` is seen."""
INSPECT_SECONDS = 2.0
"""Seconds after which the core cancels `inspect`."""
METRICS_SECONDS = 2.0
"""Seconds for `metrics`, which must not block: far more than it takes to copy numbers."""
MANY_SECONDS = 8.0
"""Seconds for an apply of `MANY` backends, besides the seconds of a small apply."""
_QUICK_MANY_SECONDS = 1.5
"""Seconds of an apply of `MANY` backends up to which `MANY` backends are applied again."""
_SCRAPES = 3
"""Scrapes of the metrics in turn, of which the fastest tells whether `metrics` blocks: others may wait for a CPU."""
_PREVIEWED = ("pair", "one", "empty", "host", "draining", "twins")
"""States that are previewed while the first of them is applied. A preview in words need not tell weights and labels."""


@dataclass
class Asked:
    """The answers of a consumer at a certain moment, or the exceptions."""

    moment: str
    health: object = None
    health_seconds: float = 0.0
    samples: object = None
    samples_seconds: float = 0.0
    details: object = None


@dataclass
class Previews:
    """The texts of previews beside a running instance, by the previewed change; `unsupported` if there are none."""

    unsupported: bool = False
    texts: dict[str, object] = field(default_factory=dict)
    of_states: dict[str, object] = field(default_factory=dict)
    """The texts of previews of states while the state "pair" is applied, by the name of the state."""
    writes: list[str] = field(default_factory=list)
    changed: tuple[object, object] = (None, None)


@dataclass
class Gentle:
    """The observations of the first life."""

    session: Session
    worlds: dict[str, object] = field(default_factory=dict)
    """The effect of each state that was applied."""
    errors: dict[str, BaseException] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    texts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files with each of some states, by path."""
    before: object = None
    repeated: dict[str, list[object]] = field(default_factory=dict)
    way: list[object] = field(default_factory=list)
    later: tuple[object, object] = (None, None)
    requests_when_equal: list[int] = field(default_factory=list)
    requests_when_idle: int = 0
    is_last_of_many_seen: bool = True
    asked: list[Asked] = field(default_factory=list)
    previews: Previews = field(default_factory=Previews)
    files: FileChanges = field(default_factory=FileChanges)
    mutated: list[str] = field(default_factory=list)
    lookups: set[str] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)
    """The files that the consumer wrote outside its directories, and that are still there."""
    moved: list[str] = field(default_factory=list)
    """The files that the consumer moved into its directories from a directory for temporary files."""
    marks: list[str] = field(default_factory=list)
    """The files that labels have created."""
    ending: Ending = field(default_factory=Ending)

    @property
    def usual(self) -> tuple[str, object]:
        """The state to which other lives bring the consumer, and its effect in this life."""
        if "one" in self.worlds:
            return "one", self.worlds["one"]
        return "snapshot 0", self.repeated["snapshot 0"][0]


def gentle(session: Session) -> Gentle:
    """Live the first life, and return its observations."""
    observed = Gentle(session)

    async def script(life: Life) -> None:
        await _Script(session, life, observed).run()

    observed.ending = session.life(script)
    return observed


class _Script:
    def __init__(self, session: Session, life: Life, observed: Gentle) -> None:
        self.session, self.life, self.observed = session, life, observed

    async def run(self) -> None:
        observed, life = self.observed, self.life
        observed.before = life.world()
        await self._ask("before the first apply")
        await self._repeat()
        await self._go_there_and_back()
        await self._ask("after some applies")
        await self._preview()
        await self._visit()
        await self._preview_states()
        await self._ask("at the end")
        observed.files, observed.mutated = life.files, life.mutated
        observed.lookups = life.lookups
        written = {Path(os.path.abspath(path)) for path in life.written}  # noqa: PTH100 - without following links
        observed.moved = sorted(
            {f"{source} -> {target}" for source, target in life.moved if self._is_moved(source, target)}
        )
        observed.outside = sorted(str(path) for path in written if path.exists() and is_outside(path, self.session))

    def _is_moved(self, source: str, target: str) -> bool:
        """Return True if `source` is a temporary file elsewhere, maybe on another file system, and `target` is ours."""
        temporary = Path(tempfile.gettempdir())
        is_temporary = Path(source).is_relative_to(temporary) and is_outside(Path(source), self.session)
        return (
            is_temporary and Path(source).parent != Path(target).parent and not is_outside(Path(target), self.session)
        )

    async def _repeat(self) -> None:
        """Apply each snapshot of the author again and again."""
        for name in ("snapshot 0", "snapshot 1"):
            state = self.session.states[name]
            before = len(self.life.seconds)
            await self.life.apply(state, restarted=True)
            worlds = [self.life.world()]
            if name == "snapshot 0":
                self.session.apply_seconds = self.life.seconds[before]
            if not self.session.is_very_slow and (name == "snapshot 0" or not self.session.is_slow):
                requests = self.life.requests
                await self.life.apply(state, restarted=True)
                worlds.append(self.life.world())
                self.observed.requests_when_equal.append(self.life.requests - requests)
            if name == "snapshot 0" or not self.session.is_very_slow:
                requests = self.life.requests
                await self.life.apply(state, operator_request=name == "snapshot 1")
                worlds.append(self.life.world())
                self.observed.requests_when_equal.append(self.life.requests - requests)
            self.observed.repeated[name] = worlds

    async def _go_there_and_back(self) -> None:
        """Apply the second snapshot, the first, and the second again; or from the first, which has been applied."""
        first, second = self.session.snapshots
        if self.session.is_very_slow:
            self.observed.way.append(self.observed.repeated["snapshot 0"][0])
        else:
            self.observed.way.append(self.life.world())
            await self.life.apply(first)
        self.observed.way.append(self.life.world())
        await self.life.apply(second)
        self.observed.way.append(self.life.world())
        immediately, requests = self.life.world(), self.life.all_requests
        await asyncio.sleep(_SETTLE)
        self.observed.later = immediately, self.life.world()
        self.observed.requests_when_idle = self.life.all_requests - requests

    async def _visit(self) -> None:
        """Apply the other states in turn, while there is time."""
        budget = self.session.contract.budget / (3 if self.session.is_very_slow else 1)
        deadline = time.monotonic() + (budget if self.session.apply_seconds < budget else -1)
        asked: set[str] = set()
        effect_of_many: object = None
        waiting = [(name, state) for name, state in self.session.states.items() if not name.startswith("snapshot ")]
        while waiting:
            name, state = waiting.pop(0)
            is_many = name.startswith("many")
            if self.session.is_slow and (time.monotonic() > deadline or is_many):
                continue
            if name == "many, last moved" and not 0 <= self.observed.seconds["many"] < _QUICK_MANY_SECONDS:
                continue
            if name == "labels":
                state = watching_labels(state, asked)
            if name == "hostile" and asked:
                more = with_labels(self.session.states["pair"], asked)
                waiting[:0] = [*more.items()][: 3 if self.session.is_slow else None]
            try:
                await (self._apply_many(state) if is_many else self.life.apply(state))
            except HangError:
                raise
            except Exception as error:  # noqa: BLE001 - examined by the clause of the state
                self.observed.errors[name] = error
                continue
            finally:
                self.observed.seconds[name] = self.life.seconds[-1]
            if name == "hostile" or name.startswith("label "):
                self._find_marks()
            if not is_many:
                self.observed.worlds[name] = self.life.world()
                self.observed.texts[name] = self._texts()
            elif name == "many":
                effect_of_many = self.life.world()
            else:
                self.observed.is_last_of_many_seen = self.life.world() != effect_of_many

    async def _apply_many(self, state: Named) -> None:
        """Apply many backends, and give up a little after the seconds that the apply may take."""
        task = asyncio.ensure_future(self.life.apply(state))
        await asyncio.wait({task}, timeout=within(MANY_SECONDS + 2 * self.session.apply_seconds) * 1.1)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CALL_SECONDS)
        else:
            task.result()

    def _find_marks(self) -> None:
        """Look for the files that labels name, and remove them."""
        directories = {Path.cwd(), Path(tempfile.gettempdir()), Path.home(), self.life.state_dir}
        for directory in {*directories, self.session.run_dir, *self.session.run_dir.parents}:
            for path in (directory / MARK, directory / f"{MARK}.json", directory / f"{MARK}.conf"):
                if path.exists() or path.is_symlink():
                    self.observed.marks.append(str(path))
                    path.unlink()

    def _texts(self) -> dict[str, bytes]:
        found = {}
        for path in (*self.life.paths(), *outside_paths(self.session)):
            try:
                if path.is_file() and path.stat().st_size < 1_000_000:
                    found[str(path)] = path.read_bytes()
            except OSError:
                continue
        return found

    async def _ask(self, moment: str) -> None:
        consumer = self.life.consumer
        asked = Asked(moment)
        await ask(asked, consumer)
        asked.details = await outcome("inspect", INSPECT_SECONDS, consumer.inspect)
        self.observed.asked.append(asked)

    async def _preview(self) -> None:
        """Preview beside the running instance, as `--dry-run` does beside a running daemon."""
        first, second = self.session.snapshots
        previews = self.observed.previews
        if type(self.life.consumer).preview is Consumer.preview:
            previews.unsupported = True
            return
        before = self.life.world()
        await self._preview_one("nothing, at the second state", second, second)
        await self._preview_one("the first state, at the second", first, second)
        await self._preview_one("the second state as a first apply, at the second", second, None)
        previews.changed = before, self.life.world()
        if not self.session.is_very_slow:
            await self.life.apply(first)
            await self._preview_one("nothing, at the first state", first, first)
        with tempfile.TemporaryDirectory() as directory:
            await self._preview_one("the first state, in no directory", first, None, Path(directory, "not there"))

    async def _preview_states(self) -> None:
        """Preview the change from one state to each of some others: a removal, a change in place, and so on."""
        previews, present = self.observed.previews, self.session.states[_PREVIEWED[0]]
        if previews.unsupported or self.session.is_slow:
            return
        await self.life.apply(present)
        for name in _PREVIEWED:
            if name in self.observed.worlds:
                await self._preview_one(name, self.session.states[name], present)
                if name in previews.texts:
                    previews.of_states[name] = previews.texts.pop(name)

    async def _preview_one(self, what: str, state: Named, previous: Named | None, run_dir: Path | None = None) -> None:
        contract = self.session.contract
        consumer = contract._aside(run_dir or self.session.run_dir, self.session.state_dir)  # noqa: SLF001
        previews = self.observed.previews
        if previews.unsupported:
            return
        with Recorder() as recorder:
            text = await outcome("preview", CALL_SECONDS, consumer.preview, self.life.update(state, previous))
        if isinstance(text, NotImplementedError):
            previews.unsupported = True
            return
        previews.texts[what] = text
        previews.writes += recorder.writes


async def ask(asked: Asked, plugin: AnyConsumer | AnyProvider) -> None:
    """Ask `plugin` for its health and its metrics, and note the answers in `asked` with the seconds that they took."""
    begun = time.monotonic()
    asked.health = await outcome("health", CALL_SECONDS, plugin.health)
    asked.health_seconds = time.monotonic() - begun
    taken = []
    for _ in range(_SCRAPES):
        begun = time.monotonic()
        asked.samples = await in_a_thread("metrics", METRICS_SECONDS, lambda: [*plugin.metrics()])
        taken.append(time.monotonic() - begun)
    asked.samples_seconds = min(taken)


async def outcome(name: str, seconds: float, function: Callable[..., Any], *arguments: object) -> object:
    """Return the result of a call of a plugin, or the exception. A hang is raised."""
    try:
        return await call(name, seconds, function, *arguments)
    except (HangError, BrokenError):
        raise
    except Exception as error:  # noqa: BLE001 - examined by a clause
        return error


async def in_a_thread(name: str, seconds: float, function: Callable[[], Any]) -> object:
    """Return the result of `function`, called on another thread, or its exception."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - examined by a clause
            results.append(error)

    thread = threading.Thread(target=run, daemon=True, name="contract metrics")
    thread.start()
    with limited(name, seconds):
        while thread.is_alive():  # noqa: ASYNC110 - a thread wakes no loop
            await asyncio.sleep(0.001)
    return results[0]


def outside_paths(session: Session) -> list[Path]:
    """Return the absolute paths in the configuration and the declared ones: a consumer may write these."""
    return [*declared_paths(session.contract.config), *map(Path, session.contract.outside)]


def declared_paths(config: Mapping[str, Any]) -> list[Path]:
    """Return the absolute paths in a configuration."""
    found: list[Path] = []

    def collect(value: object) -> None:
        if isinstance(value, Mapping):
            for each in value.values():
                collect(each)
        elif isinstance(value, list | tuple | set | frozenset):
            for each in value:
                collect(each)
        elif isinstance(value, str | Path) and str(value).startswith("/") and "\0" not in str(value):
            found.append(Path(value))

    collect(config)
    return found


def is_outside(path: Path, session: Session) -> bool:
    """Return True if `path` is neither in the instance's directories nor declared."""
    declared = [session.top, *outside_paths(session)]
    temporary = Path(tempfile.gettempdir())
    # Beside a declared file a consumer makes the temporary file that it renames into place.
    beside = {each.parent for each in declared[1:]} - {Path("/"), temporary}
    if path.is_dir() and any(each.is_relative_to(path) for each in declared):
        return False
    return not any(path.is_relative_to(each) for each in (*declared, *beside))
