"""The consumer `tcpproxy`: gives workers the listeners of the configuration and the backends of each snapshot."""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from discovery import (
    Addresses,
    ApplyError,
    Backend,
    Consumer,
    Context,
    DiscoveryError,
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
from discovery_tcpproxy.listening_sockets import (
    CannotListenError,
    ListeningSocket,
    from_other_process,
    open_listening_socket,
    path_problem,
    set_mode,
    take_inherited,
)
from discovery_tcpproxy.status import ProxyStatus, WorkerStatus, document, down, samples, watched
from discovery_tcpproxy.targets import Targets, changes, endpoints, lines_of, preview, targets
from discovery_tcpproxy.timing import TIMING, Timing
from discovery_tcpproxy.worker_pool import WorkerPool
from discovery_tcpproxy.worker_slot import DesiredState

_TICK = 1.0
"""Seconds between two checks of listening sockets and addresses."""
_FIRST_RETRY, _MOST_RETRY = 1.0, 10.0
"""Seconds until another attempt to open a listening socket: the first delay, and the limit of the doubled delays."""
_RESOLVE_TIMEOUT = 2.0
"""Seconds for the lookup of new host names before backends are sent without them; their addresses follow."""
_EXIT_TIMEOUT = 2.0
"""Seconds for workers to end after the grace of their connections."""
_STOP_MARGIN = 5.0
"""Seconds of a stop besides the grace and the end of the workers: files, names, sockets on a loaded machine."""
_PROBLEMS = 5
"""Problems that are logged or shown one by one, so that many backends of one kind do not flood the log."""


class TcpProxyConsumer(Consumer[TcpProxyConfig]):
    """TCP proxy for the backends that the registry has at the moment."""

    Config: ClassVar[type[PluginConfig]] = TcpProxyConfig

    def __init__(self, config: TcpProxyConfig, context: Context, timing: Timing = TIMING) -> None:
        """Create the consumer with the time limits of its workers; `setup` opens and starts everything."""
        super().__init__(config, context)
        self._timing = timing
        self._workers = WorkerPool(context.run_dir, context.log, timing)
        self._names = Names(self._on_addresses)
        self._last_names = LastNames(context.log, lambda: self._names.found, "--run-dir")
        self._addresses: Addresses | None = {}
        self._has_new_addresses = False
        self._sockets: dict[str, ListeningSocket] = {}
        self._socket_errors: dict[str, str] = {}
        self._snapshot: Snapshot | None = None
        self._targets: Targets = {}
        self._set_up = False
        self._handed_over = False
        self._left_out: tuple[str, ...] = ()
        self._reconcile_error: str | None = None
        self._lock = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def stop_seconds(self) -> float:
        """Seconds that a stop may take: the grace of connections and a margin."""
        return self.config.grace + _EXIT_TIMEOUT + _STOP_MARGIN

    async def setup(self) -> None:
        """Open or inherit the listening sockets; start the workers, or adopt those of a daemon that died.

        Raises ApplyError if no listening socket can be opened.
        """
        adopting = asyncio.ensure_future(self._adopt())
        try:
            await asyncio.wait((adopting,))  # the task is not cancelled with this one
        except asyncio.CancelledError:
            with suppress(Exception):
                await adopting  # `teardown` ends only adopted workers that are in the pool
            raise
        await adopting
        self._open_missing()
        if not self._sockets:
            raise ApplyError("; ".join(self._socket_errors.values()))
        for reason in self._socket_errors.values():
            self.context.log.error("a listener is not open; the attempt is repeated", reason=reason)
        # A host name that cannot be looked up keeps the addresses that adopted workers use.
        self._names.remembered = self._last_names.open(self.context.run_dir / "names.json") or {}
        await self._resolve_names()
        await self._reconcile()
        self._set_up = True
        for name, bind in binds_of(self.config):
            if bind in self._sockets:
                self.context.log.info("listening", listener=name, address=bind)
        self._ticker = asyncio.create_task(self._tick(), name="ticker")

    async def apply(self, update: Update) -> None:
        """Send the changes to the workers, and wait for their answers. Raises ApplyError."""
        self._snapshot, self._addresses = update.snapshot, update.addresses
        await self._resolve_names()
        await self._reconcile()

    async def preview(self, update: Update) -> str:
        """Return the listeners, each with its future backends, as a diff; empty if the backends are those of before."""
        self._snapshot, self._addresses = update.snapshot, update.addresses
        try:
            await self._resolve_names()
            after = preview(self.config, update.snapshot, self._known_addresses())
            if update.previous is None:  # nothing of the proxy outlives a daemon that has stopped
                return after
            return changes(preview(self.config, update.previous, self._known_addresses()), after)
        finally:
            await self._names.close()

    async def validate(self, update: Update) -> Validation:
        """Check the paths of Unix sockets. Addresses that are in use now may be free later, and are not checked."""
        future_directories = self.context.run_dir, self.context.run_dir.parent
        faults = (path_problem(name, bind, future_directories) for name, bind in binds_of(self.config))
        listens = tuple(bind.removeprefix(UNIX) for _, bind in binds_of(self.config))
        return Validation(tuple(each for each in faults if each is not None), listens=listens)

    async def reconfigure(self, config: TcpProxyConfig) -> bool:
        """Apply every change in place; existing connections are not affected."""
        before, self.config = self.config, config
        old_modes, modes = _modes(before), _modes(config)
        for bind, sock in self._sockets.items():
            if bind in modes and modes[bind] != old_modes.get(bind):
                with suppress(OSError):
                    set_mode(sock, modes[bind])
        await self._resolve_names()
        await self._try_to_reconcile()
        return True

    async def health(self) -> Health:
        """Return healthy if every address is open and every worker answers."""
        problems = [*self._socket_errors.values(), *self._workers.problems]
        if self._reconcile_error is not None:
            problems.append(self._reconcile_error)
        ok = not problems
        problems += self._left_out
        more = f"; and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
        return Health(
            ok, "; ".join(problems[:_PROBLEMS]) + more, down=down(self._status()), watched=watched(self.config)
        )

    def metrics(self) -> Iterable[Sample]:
        """Return samples of listeners, backends and workers, which are at most a second old."""
        return samples(self._status())

    async def inspect(self) -> Mapping[str, Any]:
        """Return listeners, backends, workers and open connections as a document."""
        reports = await self._workers.reports(connections=True)
        return document(self._status(), [(worker.pid, report) for worker, report in reports])

    def explain(self, backends: Sequence[Backend]) -> Mapping[str, Sequence[str]]:
        """Return the listeners that carry connections to these backends."""
        return lines_of(self.config, self._targets, backends)

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Return the listening sockets. The workers accept until `teardown`.

        If this daemon dies before the successor has the sockets, the successor finds the sockets at the workers.
        """
        await self._stop_ticking()
        async with self._lock:
            self._handed_over = True
            sockets, self._sockets = self._sockets, {}
        return tuple(each.sock for each in sockets.values())

    async def end_drain(self) -> None:
        """Close idle connections; the others keep what is left of their grace."""
        await self._workers.stop(self.config.grace, end_idle=True)

    @classmethod
    async def end_orphans(cls, context: Context) -> dict[int, str]:
        """Stop workers that have outlived their daemon, with the grace that the daemon gave them."""
        killed: list[int] = []
        refused: list[int] = []
        # The workers may outlive this process and must not keep its standard error open.
        found = await adopt(
            context.run_dir, context.log, on_killed=killed.append, on_refused=refused.append, stderr=None
        )
        for bind, sock in [each for one in found for each in one.sockets.items()]:
            from_other_process(bind, sock).close()
        await asyncio.gather(*(one.worker.stop_and_wait(one.grace + _EXIT_TIMEOUT) for one in found))
        if refused:
            pids = ", ".join(map(str, refused))
            raise DiscoveryError(f"workers of the TCP proxy have a daemon that still runs, and go on: process {pids}")
        return dict.fromkeys([*killed, *(one.worker.pid for one in found)], "a worker of the TCP proxy")

    async def teardown(self) -> None:
        """Stop the workers with the configured grace. Without a successor idle connections are closed at once."""
        await self._stop_ticking()
        await self._last_names.close()
        await self._names.close()
        await self._workers.stop(self.config.grace, end_idle=not self._handed_over)
        for sock in self._sockets.values():
            # After a failed setup the file of an inherited socket stays for the next attempt.
            sock.close(for_good=self._set_up or not sock.inherited)
        self._sockets = {}
        await self._workers.close(self.config.grace + _EXIT_TIMEOUT)

    async def _adopt(self) -> None:
        log = self.context.log
        found = await adopt(
            self.context.run_dir,
            log,
            self._timing,
            on_refused=lambda pid: log.info("a worker stays with its daemon", pid=pid),
        )
        modes = _modes(self.config)
        for bind, sock in [each for one in found for each in one.sockets.items()]:
            # All workers have the socket, and systemd may pass it as well.
            inherited = take_inherited(self.context.inherited, bind, modes.get(bind))
            if bind in self._sockets or inherited is not None:
                sock.close()
            if bind not in self._sockets:
                self._sockets[bind] = inherited or from_other_process(bind, sock, modes.get(bind))
        await self._workers.adopt(one.worker for one in found)

    async def _resolve_names(self) -> None:
        """Follow the host names that the core does not follow: of fixed targets, or all if the core follows none."""
        snapshot = self._snapshot if self._addresses is None else None
        if self._names.follow(endpoints(self.config, snapshot)):
            await self._names.settled(_RESOLVE_TIMEOUT)

    def _on_addresses(self) -> None:
        self._has_new_addresses = True
        self._last_names.changed()

    def _known_addresses(self) -> Addresses:
        return {**(self._addresses or {}), **self._names.addresses}

    async def _reconcile(self) -> None:
        """Open and close sockets and update the workers by configuration and snapshot. Raises ApplyError."""
        async with self._lock:
            binds = {bind for _, bind in binds_of(self.config)}
            moved = [each for bind, each in self._sockets.items() if bind not in binds or each.is_lost()]
            self._sockets = {bind: each for bind, each in self._sockets.items() if each not in moved}
            self._open_missing()
            self._update_targets()
            try:
                await self._workers.apply(self._desired())
            finally:
                for each in moved:
                    self.context.log.info("no longer listening", address=each.bind)
                    each.close()
            if moved and self._socket_errors and self._open_missing():
                # The address may have conflicted with one that has been closed just now.
                await self._workers.apply(self._desired())
            self._reconcile_error = None

    async def _try_to_reconcile(self) -> None:
        try:
            await self._reconcile()
        except ApplyError as error:
            reason = describe(error)
            if reason != self._reconcile_error:
                self.context.log.error("workers are not as configured; the attempt is repeated", reason=reason)
            self._reconcile_error = reason

    def _update_targets(self) -> None:
        before, self._has_new_addresses = self._left_out, False
        self._targets, self._left_out = targets(self.config, self._snapshot, self._known_addresses())
        for problem in [each for each in self._left_out if each not in before][:_PROBLEMS]:
            self.context.log.warning(problem)

    def _desired(self) -> DesiredState:
        sockets = {
            name: tuple(self._sockets[bind] for bind in listener.bind if bind in self._sockets)
            for name, listener in self.config.listen.items()
        }
        return DesiredState(self.config, sockets, self._targets)

    def _open_missing(self) -> bool:
        """Open or inherit the listening sockets that are missing. Return True if any was opened."""
        opened = False
        failed: dict[str, str] = {}
        for name, listener in self.config.listen.items():
            for bind in listener.bind:
                if bind in self._sockets:
                    continue
                try:
                    self._sockets[bind] = take_inherited(
                        self.context.inherited, bind, listener.mode
                    ) or open_listening_socket(name, bind, listener.mode)
                    opened = True
                except CannotListenError as error:
                    failed[bind] = str(error)
        self._socket_errors = failed
        return opened

    async def _tick(self) -> None:
        """Apply new addresses of host names, and retry failed listening sockets and updates, periodically."""
        waits, not_before = delays(_FIRST_RETRY, _MOST_RETRY), 0.0
        while True:
            await asyncio.sleep(_TICK)
            try:
                if not self._socket_errors:
                    waits, not_before = delays(_FIRST_RETRY, _MOST_RETRY), 0.0
                elif time.monotonic() >= not_before:
                    await self._retry_listeners()
                    not_before = time.monotonic() + next(waits)
                is_lost = any(each.is_lost() for each in self._sockets.values())
                is_refused = self._reconcile_error is not None or self._workers.has_refused
                if is_lost or self._has_new_addresses or is_refused:
                    await self._try_to_reconcile()
            except Exception as error:
                self.context.log.error("the periodic work of the proxy failed", reason=describe(error), exc_info=error)

    async def _retry_listeners(self) -> None:
        before = dict(self._socket_errors)
        async with self._lock:
            opened = self._open_missing()
        for bind, reason in self._socket_errors.items():
            if before.get(bind) != reason:
                self.context.log.error("a listener is not open; the attempt is repeated", reason=reason)
        for bind in before.keys() & self._sockets.keys():
            self.context.log.info("listening", address=bind)
        if opened:
            await self._try_to_reconcile()

    async def _stop_ticking(self) -> None:
        if self._ticker is not None:
            ticker, self._ticker = self._ticker, None
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker

    def _status(self) -> ProxyStatus:
        return ProxyStatus(
            self.config,
            frozenset(tuple(self._sockets)),
            dict(self._socket_errors),
            self._targets,
            self._left_out,
            self._workers.figures(),
            tuple(WorkerStatus(each.number, each.pid, each.started) for each in self._workers.running),
            self._workers.replaced,
        )


def _modes(config: TcpProxyConfig) -> dict[str, int]:
    return {bind: listener.mode for listener in config.listen.values() for bind in listener.bind}
