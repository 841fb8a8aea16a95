"""The consumer: from a snapshot to workers that carry connections to its backends."""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from discovery import (
    Addresses,
    ApplyError,
    Consumer,
    Context,
    Health,
    PluginConfig,
    Sample,
    Snapshot,
    Update,
    Validation,
    describe,
)
from discovery.toolkit import LastNames, Names, delays
from discovery_tcpproxy.adoption import adopt
from discovery_tcpproxy.config import UNIX, TcpProxyConfig, binds_of
from discovery_tcpproxy.listeners import CannotListenError, Listening, adopted, fault, open_listener, set_mode, take
from discovery_tcpproxy.targets import Targets, endpoints, preview, targets
from discovery_tcpproxy.views import View, WorkerView, samples, shown
from discovery_tcpproxy.workers import Desired, Workers

_TICK = 1.0
_PATIENCE = 2.0
"""Seconds that new names of the configuration are waited for; those that take longer follow."""
_TO_END = 2.0
"""Seconds for workers to end once their connections' time is over."""
_STOP_MARGIN = 5.0
_PROBLEMS = 5
"""How many are logged one by one."""


class TcpProxyConsumer(Consumer[TcpProxyConfig]):
    """Carries TCP to whatever the registry names now."""

    Config: ClassVar[type[PluginConfig]] = TcpProxyConfig

    def __init__(self, config: TcpProxyConfig, context: Context) -> None:
        """Keep the arguments."""
        super().__init__(config, context)
        self._workers = Workers(context.run_dir, context.log)
        self._names = Names(self._looked_up)
        self._last_names = LastNames(context.log, lambda: self._names.found, "--run-dir")
        self._addresses: Addresses | None = {}
        self._is_misaimed = False
        self._listening: dict[str, Listening] = {}
        self._not_listening: dict[str, str] = {}
        self._snapshot: Snapshot | None = None
        self._targets: Targets = {}
        self._set_up = False
        self._handed_over = False
        self._left_out: tuple[str, ...] = ()
        self._behind: str | None = None
        self._turn = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def stop_seconds(self) -> float:
        """As long as connections may take to finish, and a little."""
        return self.config.grace + _TO_END + _STOP_MARGIN

    async def setup(self) -> None:
        """Open or take over the listeners; start the workers, or adopt those of a daemon that died.

        Raises ApplyError if there is nothing to listen on.
        """
        adopting = asyncio.ensure_future(self._adopt())
        try:
            await asyncio.wait((adopting,))  # a cancellation leaves the task alone
        except asyncio.CancelledError:
            with suppress(Exception):
                await adopting  # `teardown` ends only the workers that it knows
            raise
        await adopting
        self._open_missing()
        if not self._listening:
            raise ApplyError("; ".join(self._not_listening.values()))
        for reason in self._not_listening.values():
            self.context.log.error("a listener is not open; it is tried again", reason=reason)
        # A name that cannot be looked up now keeps its addresses: adopted workers have them, and are not to lose them.
        self._names.remembered = self._last_names.open(self.context.run_dir / "names.json") or {}
        await self._look_up_own()
        await self._bring()
        self._set_up = True
        for name, bind in binds_of(self.config):
            if bind in self._listening:
                self.context.log.info("listening", listener=name, address=bind)
        self._ticker = asyncio.create_task(self._tick(), name="ticker")

    async def apply(self, update: Update) -> None:
        """Send the changes to the workers, and wait for the answer of each. Raises ApplyError."""
        self._snapshot, self._addresses = update.snapshot, update.addresses
        await self._look_up_own()
        await self._bring()

    async def preview(self, update: Update) -> str:
        """The listeners, each with the backends that it would have."""
        self._snapshot, self._addresses = update.snapshot, update.addresses
        try:
            await self._look_up_own()
            return preview(self.config, update.snapshot, self._known_addresses())
        finally:
            await self._names.close()

    async def validate(self, update: Update) -> Validation:
        """Whether there can be the Unix sockets that are asked for. Who has an address now is nothing to go by."""
        made = self.context.run_dir, self.context.run_dir.parent
        faults = (fault(name, bind, made) for name, bind in binds_of(self.config))
        listens = tuple(bind.removeprefix(UNIX) for _, bind in binds_of(self.config))
        return Validation(tuple(each for each in faults if each is not None), listens=listens)

    async def reconfigure(self, config: TcpProxyConfig) -> bool:
        """Take everything in place: connections that go on are not touched."""
        before, self.config = self.config, config
        was, modes = _modes(before), _modes(config)
        for bind, listening in self._listening.items():
            if bind in modes and modes[bind] != was.get(bind):
                with suppress(OSError):
                    set_mode(listening, modes[bind])
        await self._look_up_own()
        await self._try_to_bring()
        return True

    async def health(self) -> Health:
        """Whether every listener is open and every worker answers."""
        problems = [*self._not_listening.values(), *self._workers.problems]
        if self._behind is not None:
            problems.append(self._behind)
        ok = not problems
        problems += self._left_out
        more = f"; and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
        return Health(ok, "; ".join(problems[:_PROBLEMS]) + more)

    def metrics(self) -> Iterable[Sample]:
        """Figures of listeners, backends and workers, of the last second."""
        return samples(self._view())

    async def inspect(self) -> Mapping[str, Any]:
        """Listeners, backends, workers and the live connections."""
        reports = await self._workers.reports(connections=True)
        return shown(self._view(), [(worker.pid, report) for worker, report in reports])

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Stop accepting and return the listening sockets; what connects meanwhile waits for the successor."""
        await self._stop_ticking()
        async with self._turn:
            await self._workers.stop(self.config.grace)
            self._handed_over = True
            listening, self._listening = self._listening, {}
        return tuple(each.sock for each in listening.values())

    @classmethod
    async def end_orphans(cls, context: Context) -> dict[int, str]:
        """Stop workers that have outlived their daemon: their connections have the time that it gave them."""
        killed: list[int] = []
        # They may outlive us, and whoever reads our stderr does not wait for them.
        found = await adopt(context.run_dir, context.log, killed=killed.append, stderr=None)
        for bind, sock in [each for one in found for each in one.sockets.items()]:
            adopted(bind, sock).close()
        await asyncio.gather(*(one.worker.end(one.grace + _TO_END) for one in found))
        return dict.fromkeys([*killed, *(one.worker.pid for one in found)], "a worker of the TCP proxy")

    async def teardown(self) -> None:
        """Close idle connections, unless a successor serves their clients; let the others finish, up to `grace`."""
        await self._stop_ticking()
        await self._last_names.close()
        await self._names.close()
        await self._workers.stop(self.config.grace, end_idle=not self._handed_over)
        for listening in self._listening.values():
            # One that was inherited is offered to the next setup if this one failed.
            listening.close(for_good=self._set_up or not listening.inherited)
        self._listening = {}
        await self._workers.close(self.config.grace + _TO_END)

    async def _adopt(self) -> None:
        found = await adopt(self.context.run_dir, self.context.log)
        modes = _modes(self.config)
        for bind, sock in [each for one in found for each in one.sockets.items()]:
            # The workers share it, and systemd passes it once more.
            inherited = take(self.context.inherited, bind, modes.get(bind))
            if bind in self._listening or inherited is not None:
                sock.close()
            if bind not in self._listening:
                self._listening[bind] = inherited or adopted(bind, sock, modes.get(bind))
        await self._workers.adopt(one.worker for one in found)

    async def _look_up_own(self) -> None:
        """Follow the names that the core does not: of fixed backends, or all where it has looked up none."""
        snapshot = self._snapshot if self._addresses is None else None
        if self._names.follow(endpoints(self.config, snapshot)):
            await self._names.settled(_PATIENCE)

    def _looked_up(self) -> None:
        self._is_misaimed = True
        self._last_names.changed()

    def _known_addresses(self) -> Addresses:
        return {**(self._addresses or {}), **self._names.addresses}

    async def _bring(self) -> None:
        """Make listeners and workers what the configuration and the last snapshot say. Raises ApplyError."""
        async with self._turn:
            binds = {bind for _, bind in binds_of(self.config)}
            moved = [each for bind, each in self._listening.items() if bind not in binds or each.is_lost()]
            self._listening = {bind: each for bind, each in self._listening.items() if each not in moved}
            self._open_missing()
            self._aim()
            try:
                await self._workers.be(self._desired())
            finally:
                for each in moved:
                    self.context.log.info("no longer listening", address=each.bind)
                    each.close()
            if moved and self._not_listening and self._open_missing():
                # An address that takes in, or is taken in by, one that was let go just now.
                await self._workers.be(self._desired())
            self._behind = None

    async def _try_to_bring(self) -> None:
        try:
            await self._bring()
        except ApplyError as error:
            reason = describe(error)
            if reason != self._behind:
                self.context.log.error("workers are not as configured; it is tried again", reason=reason)
            self._behind = reason

    def _aim(self) -> None:
        before, self._is_misaimed = self._left_out, False
        self._targets, self._left_out = targets(self.config, self._snapshot, self._known_addresses())
        for problem in [each for each in self._left_out if each not in before][:_PROBLEMS]:
            self.context.log.warning(problem)

    def _desired(self) -> Desired:
        sockets = {
            name: tuple(self._listening[bind] for bind in listener.bind if bind in self._listening)
            for name, listener in self.config.listen.items()
        }
        return Desired(self.config, sockets, self._targets)

    def _open_missing(self) -> bool:
        """Open, or take over, what is not open; whether anything was."""
        opened = False
        failed: dict[str, str] = {}
        for name, listener in self.config.listen.items():
            for bind in listener.bind:
                if bind in self._listening:
                    continue
                try:
                    self._listening[bind] = take(self.context.inherited, bind, listener.mode) or open_listener(
                        name, bind, listener.mode
                    )
                    opened = True
                except CannotListenError as error:
                    failed[bind] = str(error)
        self._not_listening = failed
        return opened

    async def _tick(self) -> None:
        """Periodic work: host names whose addresses change, listeners that could not listen."""
        waits, not_before = delays(1.0, 10.0), 0.0
        while True:
            await asyncio.sleep(_TICK)
            try:
                if not self._not_listening:
                    waits, not_before = delays(1.0, 10.0), 0.0
                elif time.monotonic() >= not_before:
                    await self._retry_listeners()
                    not_before = time.monotonic() + next(waits)
                is_lost = any(each.is_lost() for each in self._listening.values())
                if is_lost or self._is_misaimed or self._behind is not None:
                    await self._try_to_bring()
            except Exception as error:
                self.context.log.error("looking after listeners failed", reason=describe(error), exc_info=error)

    async def _retry_listeners(self) -> None:
        before = dict(self._not_listening)
        async with self._turn:
            opened = self._open_missing()
        for bind, reason in self._not_listening.items():
            if before.get(bind) != reason:
                self.context.log.error("a listener is not open; it is tried again", reason=reason)
        for bind in before.keys() & self._listening.keys():
            self.context.log.info("listening", address=bind)
        if opened:
            await self._try_to_bring()

    async def _stop_ticking(self) -> None:
        if self._ticker is not None:
            ticker, self._ticker = self._ticker, None
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker

    def _view(self) -> View:
        return View(
            self.config,
            frozenset(tuple(self._listening)),
            dict(self._not_listening),
            self._targets,
            self._left_out,
            self._workers.figures(),
            tuple(WorkerView(each.number, each.pid, each.started) for each in self._workers.alive),
            self._workers.replaced,
        )


def _modes(config: TcpProxyConfig) -> dict[str, int]:
    return {bind: listener.mode for listener in config.listen.values() for bind in listener.bind}
