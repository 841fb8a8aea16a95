"""The composition root: the only module that knows the registry, the consumers' runners and the providers."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.consuming.following import RegistryFeed
from discovery.consuming.inheritance import Inheritance
from discovery.consuming.lastgood import state_dir, state_file
from discovery.consuming.resolving import SnapshotResolver
from discovery.daemon.adminport import AdminPort
from discovery.daemon.alarms import Alarms
from discovery.daemon.config import Settings
from discovery.daemon.fleet import Fleet
from discovery.daemon.handover import HandoverRefusedError, HandoverServer, Successor, take_over
from discovery.daemon.instances import Instances
from discovery.daemon.status import DaemonStatus
from discovery.daemon.stopping import warn_of_orphans
from discovery.errors import CannotStartError, ConfigError, describe
from discovery.hosting import loading as plugins
from discovery.hosting.isolation import Phase
from discovery.registry import Registry
from discovery.system import systemd
from discovery.system.asyncio_tools import cancel_and_wait, wait_for_tasks
from discovery.system.limits import raise_descriptor_limit
from discovery.system.logs import configure_logging
from discovery.system.rundir import base_run_dir
from discovery.system.signals import on_stop

if TYPE_CHECKING:
    from discovery.system.filewatch import FileWatch

CLOSE_DEADLINE = 2.0
RELOAD_DELAY = 0.1
HAND_OVER_SECONDS = 60.0
"""Seconds to let go of everything for a successor, beyond what consumers take to stop; it gives up after that."""


class Daemon:
    """Keeps every consumer in step with a registry, and registered there what every provider finds."""

    def __init__(
        self,
        loaded: tuple[Settings, Instances],
        load: Callable[[], tuple[Settings, Instances]],
        config: Path | None,
        log: FilteringBoundLogger,
        *,
        replace: bool = False,
        name: str = "daemon",
    ) -> None:
        """`loaded` are the settings and what they run; `load` reads them again, at a reload, and `config` is its file.

        With `replace` it takes over from the daemon of that `name` that runs on the same run directory.
        """
        self._load = load
        self._config = config
        self._log = log
        self._settings, self._first = loaded
        self._run_dir = base_run_dir(self._settings.run_dir)
        self._fleet = Fleet(self._run_dir, log, self._on_status_change)
        self._resolver = SnapshotResolver(log, self._fleet.offer)
        self._feed = RegistryFeed(log, self._resolver.take, self._on_status_change)
        self._alarms = Alarms(log)
        self._replace = replace
        self._handover_server = HandoverServer(
            self._run_dir / f"{name}.sock",
            log,
            self._accept,
            self._release_everything,
            lambda received: self._exit(int(not received)),
            self._feed.release,
        )
        self._changing = asyncio.Lock()
        self._exit_code = 0
        self._config_error: str | None = None
        self._admin: AdminPort | None = None
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def status(self) -> DaemonStatus:
        """The status of the daemon now."""
        following = self._feed
        return DaemonStatus(
            registry=str(self._settings.registry),
            followed=following.active,
            snapshot=following.snapshot,
            snapshot_time=following.snapshot_time,
            snapshot_from_disk=following.from_disk,
            stale=following.stale,
            alarms=self._alarms.raised,
            resets=following.resets,
            addresses=self._resolver.latest.addresses if self._resolver.latest is not None else {},
            unresolved=self._resolver.problems,
            held=following.held,
            consumers=tuple(consumer.status for consumer in self._fleet.consumers.values()),
            providers=tuple(provider.status for provider in self._fleet.providers.values()),
            config_error=self._config_error,
        )

    async def run(self) -> int:
        """Run until a signal, or until no consumer and no provider can ever run; return the exit code.

        Raises ConfigError or CannotStartError for what was wrong before anything was started.
        """
        raise_descriptor_limit()
        instances = self._first
        self._report_broken(instances)
        if not instances.usable:
            return 1
        self._registry = plugins.open_registry(self._settings.registry)
        on_stop(self._on_stop_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        # All is imported before a predecessor lets go of anything.
        if instances.providers:
            import discovery.providing.provider
        if self._config is not None:
            import discovery.system.filewatch  # noqa: F401
        await self._inherit()
        try:
            self._admin = await self._start_admin(self._settings)
        except ConfigError as error:
            if not self._replace:
                if (pid := self._handover_server.holder) is None:
                    raise
                way_out = f"take over from process {pid}, which runs on this run directory, with --replace"
                raise ConfigError(f"{error}; or {way_out}") from None
            self._log.error(str(error))  # there is nobody left who would go on in our place
        self._open_handover_server()
        watch = self._watch_config()
        names = {"consumers": ", ".join(instances.consumers), "providers": ", ".join(instances.providers)}
        self._log.info("running", registry=str(self._settings.registry), **{k: v for k, v in names.items() if v})
        warn_of_orphans(self._run_dir, {*self._settings.consumers, *self._settings.providers}, self._log)
        reloads = asyncio.create_task(self._reload_when_asked())
        try:
            await self._apply_instances(instances)
            return await self._supervise()
        finally:
            systemd.notify("STOPPING=1")
            self._stop.set()  # also if we end by an exception: no successor is to be let in now
            if watch is not None:
                watch.close()
            await cancel_and_wait(reloads, timeout=CLOSE_DEADLINE)
            self._alarms.stop()
            # At the same time: a registry that hangs must not keep the consumers from what they have to end.
            await asyncio.gather(self._fleet.stop(), self._stop_feed())
            await self._close(self._registry)
            await self._stop_admin()
            self._handover_server.close()

    async def _supervise(self) -> int:
        ready = False
        while not self._stop.is_set():
            statuses = self._fleet.statuses
            if not ready and all(each.setup_tried for each in statuses):
                ready = True
                systemd.notify("READY=1", f"STATUS=running on {self._settings.registry}")
            if statuses and all(each.phase is Phase.DEAD for each in statuses):
                self._log.error("nothing of what is configured can run")
                return 1
            self._fleet.close_unused_sockets()
            self._feed.raise_if_failed()
            self._changed.clear()
            waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._changed.wait())]
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
        return self._exit_code

    # Taking over, and being taken over from

    async def _inherit(self) -> None:
        """Take the sockets of systemd and a predecessor. Raises CannotStartError if that one does not give way."""
        sockets, faults = systemd.listen_fds()
        for fault in faults:
            self._log.warning("systemd passed what cannot be used", reason=fault)
        if self._replace:
            consumers, providers = self._settings.consumers.values(), self._settings.providers.values()
            instances = {each.name: each.plugin for each in consumers} | {each.name: each.plugin for each in providers}
            sockets += await take_over(self._handover_server.path, instances, self._log)
        self._fleet.inheritance = Inheritance(sockets)

    def _open_handover_server(self) -> None:
        try:
            self._handover_server.open()
        except CannotStartError as error:
            self._log.info("no other daemon can take over from this one", reason=str(error))

    def _accept(self, successor: Successor) -> float:
        """Within how many seconds we let go. Raises HandoverRefusedError."""
        if self._stop.is_set():
            raise HandoverRefusedError("it is about to end; start again once it has")
        if successor.instances.keys().isdisjoint(names := self._fleet.names):
            raise HandoverRefusedError(
                f"it runs {', '.join(names)} and none of yours; stop it, or choose another --run-dir"
            )
        return HAND_OVER_SECONDS + self._fleet.stop_seconds

    async def _release_everything(self, successor: Successor) -> tuple[socket.socket, ...]:
        """Give way to a successor and return the listening sockets. Records stay, for the successor to take over."""
        await self._changing.acquire()  # for good: a reload that has begun ends first, and another never begins
        self._alarms.stop()
        await asyncio.gather(self._fleet.stop_providers(), self._stop_feed(), self._stop_admin())
        await self._close(self._registry)
        sockets = await self._fleet.hand_over(successor.instances)
        self._handover_server.close()
        return sockets

    def _exit(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._stop.set()

    # Running

    async def _apply_instances(self, instances: Instances) -> list[str]:
        """Run these too, on the registry as it is now; return the names of those that are not as they were."""
        self._alarms.follow(self._registry)
        consumers = self._fleet.run_consumers(instances.consumers, self._resolver.latest)
        if self._fleet.consumers:
            settings = self._settings
            state = state_dir(settings.state_dir)
            self._resolver.remember(state_file(state, "names", settings.registry))
            await self._feed.follow(self._registry, settings.registry, state)
        else:
            await self._stop_feed()
        return [*consumers, *await self._fleet.run_providers(instances.providers, self._registry)]

    async def _stop_feed(self) -> None:
        await self._feed.stop()
        await self._resolver.close()

    def _on_status_change(self) -> None:
        """Look at how they are; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: the calling thread was abandoned
            self._loop.call_soon_threadsafe(self._changed.set)

    # Signals and reloads

    def _on_stop_signal(self, number: signal.Signals) -> None:
        self._log.info("stopping", signal=number.name)
        self._stop.set()

    def _watch_config(self) -> "FileWatch | None":
        if self._config is None:
            return None
        from discovery.system.filewatch import FileWatch  # here: without a file nothing is watched

        def changed() -> None:
            self._loop.call_soon_threadsafe(self._reload.set)

        try:
            return FileWatch([self._config], changed)
        except OSError as error:
            self._log.warning(
                "the configuration file cannot be watched; send SIGHUP after a change", reason=error.strerror
            )
            return None

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            await asyncio.sleep(RELOAD_DELAY)  # an editor touches a file several times
            self._reload.clear()
            systemd.reloading()
            try:
                async with self._changing:
                    await self._reload_settings()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and must not end reloading
                self._config_error = describe(error)
                self._log.error("the new configuration is invalid and was not applied", reason=self._config_error)
            else:
                self._config_error = None
            systemd.notify("READY=1")

    async def _reload_settings(self) -> None:
        settings, instances = self._load()
        old = self._settings
        registry = self._registry if settings.registry == old.registry else plugins.open_registry(settings.registry)
        if settings.admin != old.admin:
            try:
                admin = await self._start_admin(settings)
            except ConfigError:
                if registry is not self._registry:
                    await self._close(registry)
                raise
            await self._stop_admin()
            self._admin = admin
        if settings.run_dir != old.run_dir:
            self._log.warning("run_dir has changed: that takes a restart")
        self._settings = settings
        configure_logging(settings.log.level, settings.log.format)
        self._report_broken(instances)
        removed = await self._fleet.stop_missing(instances)
        before, self._registry = self._registry, registry
        changed = await self._apply_instances(instances)
        if before is not registry:
            await self._close(before)
        self._log.info("configuration reloaded", changed=", ".join(changed), removed=", ".join(removed))

    async def _close(self, registry: Registry) -> None:
        closing = asyncio.ensure_future(registry.close())
        if await wait_for_tasks({closing}, CLOSE_DEADLINE) and (error := closing.exception()) is not None:
            self._log.warning("the registry was not closed in order", reason=describe(error))

    def _report_broken(self, instances: Instances) -> None:
        for name, reason in instances.broken.items():
            self._log.error("plugin is broken", instance=name, reason=reason)

    # Admin endpoint

    async def _start_admin(self, settings: Settings) -> AdminPort | None:
        """Raises ConfigError if the address that was asked for cannot be had."""
        if settings.admin is None:
            return None
        admin = AdminPort(lambda: self.status, lambda: self._fleet.consumers, lambda: self._settings.admin_hosts)
        try:
            await admin.start(*settings.admin)
        except ConfigError as error:
            if not settings.admin_is_default:
                raise
            self._log.warning(str(error))
            return None
        return admin

    async def _stop_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()
