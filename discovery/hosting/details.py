"""What others ask of a plugin that runs: its own metrics, details of its state, and to adopt other options."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from discovery.errors import DiscoveryError, describe
from discovery.hosting.figures import valid_samples
from discovery.plugin import PluginConfig, Sample
from discovery.system.asyncio_tools import is_being_cancelled, wait_for_tasks
from discovery.system.either import completed


class _Telling(Protocol):
    def metrics(self) -> Iterable[Sample]: ...
    def inspect(self) -> Awaitable[Mapping[str, Any]] | Mapping[str, Any]: ...
    def reconfigure(self, config: Any) -> Awaitable[bool] | bool: ...


P = TypeVar("P", bound=_Telling)
T = TypeVar("T")


class Details(Generic[P]):
    """The metrics and the state of a plugin between its setup and its teardown.

    `turn` is held while a method of the plugin runs that another must not interrupt.
    """

    def __init__(self, kind: str, log: FilteringBoundLogger) -> None:
        """Begin without a plugin. `kind` is the label that the core adds to each sample."""
        self._kind = kind
        self._log = log
        self._live: P | None = None
        self._pending: Future[tuple[Sample, ...]] | None = None
        self._refused: dict[str, str] = {}
        self.turn = asyncio.Lock()

    def begin(self, plugin: P) -> None:
        """Ask `plugin` from now on, which is set up."""
        self._live = plugin

    async def end(self) -> P | None:
        """Ask nobody any more, once no method runs. Return the plugin if there was one."""
        async with self.turn:
            live, self._live = self._live, None
        return live

    async def samples(self, timeout: float) -> tuple[Sample, ...]:
        """Return the plugin's own metrics; none while it is not set up, if it fails, or after `timeout` seconds.

        Faults of the samples are logged once. For the core's loop.
        """
        if self._pending is None or self._pending.done():
            self._pending = Future()
            # A thread of its own: it is a plugin's, which may hang, and nobody waits for that at our end.
            reader = threading.Thread(target=self._read, args=(self._pending,), name="metrics", daemon=True)
            reader.start()
        metrics = asyncio.wrap_future(self._pending)
        return metrics.result() if await wait_for_tasks({metrics}, timeout) else ()

    async def inspect(self, loop: asyncio.AbstractEventLoop | None, timeout: float) -> Mapping[str, Any]:
        """Return the details of the state of the plugin, whose loop is `loop`. For the core's loop.

        Raises DiscoveryError while it is not set up, TimeoutError after `timeout` seconds, or what the plugin raises.
        """
        return dict(await self.ask(loop, lambda plugin: plugin.inspect(), timeout))

    async def ask(
        self, loop: asyncio.AbstractEventLoop | None, question: Callable[[P], Awaitable[T] | T], timeout: float
    ) -> T:
        """Return what `question` answers when it is called with the plugin, on the plugin's `loop`.

        For the core's loop. Raises as `inspect` does.
        """
        if loop is None or loop.is_closed():
            raise DiscoveryError("it is not running")
        asking = asyncio.run_coroutine_threadsafe(self._ask(question), loop)
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(asking)

    async def adopts(self, config: PluginConfig) -> bool:
        """Return True if the plugin has adopted the options `config`, False if its instance has to be restarted.

        A plugin that fails has not adopted them; the reason is logged. For the plugin's loop.
        """
        async with self.turn:
            try:
                return self._live is not None and bool(await completed(self._live.reconfigure(config)))
            except BaseException as error:  # a plugin may raise anything, SystemExit too
                if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                    raise
                known = isinstance(error, DiscoveryError | OSError)
                exc_info = None if known else error
                self._log.error("reconfigure failed, restarting", reason=describe(error), exc_info=exc_info)
                return False

    def _read(self, answer: "Future[tuple[Sample, ...]]") -> None:
        samples: tuple[Sample, ...] = ()
        problems: dict[str, str] = {}
        plugin = self._live
        try:
            samples, problems = valid_samples(plugin.metrics() if plugin is not None else (), self._kind)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            problems = {"metrics": describe(error)}
        for name, reason in problems.items():
            if self._refused.get(name) != reason:
                self._log.warning("a figure cannot be shown", figure=name, reason=reason)
        self._refused |= problems
        answer.set_result(samples)

    async def _ask(self, question: Callable[[P], Awaitable[T] | T]) -> T:
        async with self.turn:
            if self._live is None:
                raise DiscoveryError("it is not set up")
            return await completed(question(self._live))
