"""The composition root: makes the parts of a daemon, starts them, reloads them and stops them."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.admin.health import summary
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.admin.waiters import Waiters
from discovery.consuming.history import Change, Delay
from discovery.consuming.resolving import Resolved
from discovery.daemon.endpoint import AdminEndpoint
from discovery.daemon.fleetlink import FleetLink
from discovery.daemon.instances import Instances
from discovery.daemon.registrylink import RegistryLink
from discovery.daemon.reloading import Reloads
from discovery.daemon.running import RunningInstances
from discovery.daemon.settings import Settings
from discovery.daemon.stopping import warn_of_orphans
from discovery.daemon.succession import Succession
from discovery.errors import ConfigError
from discovery.hosting import loading as plugins
from discovery.hosting.directories import Directories
from discovery.hosting.isolation import Phase
from discovery.system import systemd
from discovery.system.asyncio_tools import on_thread
from discovery.system.limits import raise_descriptor_limit
from discovery.system.logs import configure_logging
from discovery.system.rundir import base_run_dir
from discovery.system.signals import on_stop
from discovery.system.statedir import state_dir
from discovery.tracing.opening import open_traces

if TYPE_CHECKING:
    from discovery.tracing.traces import Traces

TRACES_SECONDS = 3.0
"""Seconds for the last traces at the end of the daemon: a collector that answers, or refuses, does so sooner."""


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
        """Keep `loaded`, the settings and the instances to run.

        `load` reads them again, at a reload, and `config` is its file.

        With `replace` it takes over from the daemon of that `name` that runs on the same run directory.
        """
        self._load = load
        self._log = log
        self._replace = replace
        self._settings, self._first = loaded
        self._run_dir = base_run_dir(self._settings.run_dir)
        self._broken: Mapping[str, str] = {}
        self._exit_code = 0
        self._told_to_stop = False
        self._stopping_later: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._status_changed = asyncio.Event()
        directories = Directories(self._run_dir, state_dir(self._settings.state_dir))
        self._waiters = Waiters()
        self._traces: Traces | None = None
        self._running = RunningInstances(directories, log, self._wake, self._waiters.tell, self._on_timed)
        self._link = RegistryLink(log, self._offer, self._wake)
        self._reloads = Reloads(config, self._reload, log)
        path = self._run_dir / f"{name}.sock"
        self._fleet = FleetLink(path, log, lambda: self.status, lambda: self._admin)
        sources = Sources(
            status=lambda: self.status,
            consumers=lambda: self._running.consumers,
            providers=lambda: self._running.providers,
            hosts=lambda: (*self._settings.admin_hosts, *self._fleet.hosts),
            changes=lambda: self._link.history.changes,
            snapshot=lambda: self._link.feed.snapshot,
            waiters=self._waiters,
            members=self._link.members,
            fleet=self._fleet.document,
            daemon=self._fleet.own_document,
        )
        self._admin = AdminEndpoint(sources, log)
        self._succession = Succession(
            path,
            log,
            self._running,
            stopping=self._stop.is_set,
            release=self._release,
            leave=self._leave,
            release_records=self._link.feed.release,
            health=lambda: summary(self.status),
        )

    @property
    def status(self) -> DaemonStatus:
        """The status of the daemon now."""
        feed = self._link.feed
        return DaemonStatus(
            registry=str(self._settings.registry),
            followed=feed.active,
            snapshot=feed.snapshot,
            snapshot_time=feed.snapshot_time,
            snapshot_from_disk=feed.from_disk,
            stale=feed.stale,
            alarms=self._link.alarms.raised,
            resets=feed.resets,
            addresses=self._link.latest.addresses if self._link.latest is not None else {},
            unresolved=self._link.resolver.problems,
            held=feed.held,
            owners=feed.owners,
            consumers=tuple(consumer.status for consumer in self._running.consumers.values()),
            providers=tuple(provider.status for provider in self._running.providers.values()),
            config_error=self._reloads.error,
            broken=self._broken,
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
        registry = plugins.open_registry(self._settings.registry)
        on_stop(self._on_stop_signal)
        self._reloads.listen()
        if instances.providers:
            import discovery.providing.provider  # noqa: F401 - all is imported before a predecessor releases anything
        self._traces = open_traces(os.environ, version("discovery-framework"), self._log)
        try:
            if not await self._succession.inherit(self._settings, replace=self._replace):
                self._succession.close()
                return 0
            await self._open_admin()
        except BaseException:  # also a cancellation: the run directory is left to others
            self._succession.close()
            raise
        self._succession.open()
        self._link.use(registry)
        self._reloads.start()
        names = {"consumers": ", ".join(instances.consumers), "providers": ", ".join(instances.providers)}
        self._log.info("running", registry=str(self._settings.registry), **{k: v for k, v in names.items() if v})
        warn_of_orphans(self._run_dir, {*self._settings.consumers, *self._settings.providers}, self._log)
        try:
            await self._run_instances(instances)
            await self._fleet.use(self._settings)
            return await self._supervise()
        finally:
            systemd.notify("STOPPING=1")
            self._stop.set()  # also if an exception ends the daemon: no successor is accepted now
            await self._succession.wait_until_handed_over()
            if self._replace:  # what the predecessor left, and no consumer has found, would run on
                await self._running.wait_until_set_up()
            await self._reloads.stop()
            self._link.alarms.stop()
            self._link.members.stop()
            if self._told_to_stop:
                self._running.end_drain()
            # At the same time: a registry that hangs must not keep the consumers from what they have to end.
            await asyncio.gather(self._running.stop(), self._link.stop_following(), self._fleet.close())
            await self._link.close(self._link.registry)
            await self._admin.close()
            if (traces := self._traces) is not None:
                await on_thread(lambda: traces.stop(TRACES_SECONDS), "end of traces")
            self._succession.close()

    async def _open_admin(self) -> None:
        try:
            await self._admin.open(self._settings)
        except ConfigError as error:
            if not self._replace:
                if (pid := self._succession.holder) is None:
                    raise
                way_out = f"take over from process {pid}, which runs on this run directory, with --replace"
                raise ConfigError(f"{error}; or {way_out}") from None
            self._log.error(str(error))  # the predecessor has gone, so nobody would go on in place of this daemon

    async def _supervise(self) -> int:
        ready = False
        while not self._stop.is_set():
            statuses = self._running.statuses
            if self._running.has_locks:
                self._succession.begun()
            if not ready and all(each.setup_tried for each in statuses):
                ready = True
                systemd.notify("READY=1", f"STATUS=running on {self._settings.registry}")
            if statuses and all(each.phase is Phase.DEAD for each in statuses):
                self._log.error("none of the configured instances can run")
                return 1
            self._running.close_unused_sockets()
            self._link.feed.raise_if_failed()
            self._status_changed.clear()
            waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._status_changed.wait())]
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
        return self._exit_code

    async def _run_instances(self, instances: Instances) -> list[str]:
        """Run `instances` on the registry in use; return the names of those that were not equal before."""
        consumers = self._running.run_consumers(instances.consumers, self._link.latest)
        if self._running.consumers:
            await self._link.follow(self._settings.registry, self._settings.state_dir)
        else:
            await self._link.stop_following()
        return [*consumers, *await self._running.run_providers(instances.providers, self._link.registry)]

    async def _reload(self) -> None:
        """Read the configuration again, and run its instances. Raises ConfigError and changes nothing if invalid."""
        # On a thread: leases are renewed meanwhile, even if a plugin blocks during its import.
        settings, instances = await on_thread(self._load, "reload")
        old, registry = self._settings, self._link.registry
        if settings.registry != old.registry:
            registry = plugins.open_registry(settings.registry)
        try:
            await self._admin.open(settings)
        except ConfigError:
            if registry is not self._link.registry:
                await self._link.close(registry)
            raise
        if settings.run_dir != old.run_dir:
            self._log.warning("run_dir has changed: that takes a restart")
        self._settings = settings
        configure_logging(settings.log.level, settings.log.format)
        self._report_broken(instances)
        removed = await self._running.stop_missing(instances)
        before = self._link.registry
        self._link.use(registry)
        changed = await self._run_instances(instances)
        await self._fleet.use(settings)
        if before is not registry:
            await self._link.close(before)
        self._log.info("configuration reloaded", changed=", ".join(changed), removed=", ".join(removed))

    async def _release(self) -> None:
        """Release everything a successor needs, but the consumers' sockets. What is registered stays registered."""
        await self._reloads.suspend()
        await self._running.wait_until_settled()  # what a reload has just begun
        self._link.alarms.stop()
        self._link.members.stop()
        await asyncio.gather(
            self._running.stop_providers(),
            self._link.stop_following(),
            self._fleet.close(keep=True),
            self._admin.close(),
        )
        await self._link.close(self._link.registry)

    def _leave(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._stop.set()

    def _on_stop_signal(self, number: signal.Signals) -> None:
        self._log.info("stopping", signal=number.name)
        self._told_to_stop = True
        if self._succession.handing_over:  # a stop now would refuse clients that the successor is about to serve
            self._stopping_later = asyncio.create_task(self._stop_once_handed_over())
            return
        if self._stop.is_set():
            self._running.end_drain()
        self._stop.set()

    async def _stop_once_handed_over(self) -> None:
        await self._succession.wait_until_handed_over()
        self._stop.set()

    def _on_timed(self, consumer: str, number: int, delays: Sequence[tuple[Change, Delay]]) -> None:
        """Pass on what a consumer took for changes; from any thread."""
        if self._traces is not None:
            self._traces.applied(consumer, number, delays)

    def _offer(self, resolved: Resolved, changes: Sequence[Change]) -> None:
        if self._traces is not None:
            self._traces.offered(changes, self._running.consumers)
        self._running.offer(resolved, changes)
        self._waiters.tell()

    def _wake(self) -> None:
        """Look at the status of every instance; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: the calling thread was abandoned
            self._loop.call_soon_threadsafe(self._status_changed.set)

    def _report_broken(self, instances: Instances) -> None:
        self._broken = dict(instances.broken)
        for name, reason in instances.broken.items():
            self._log.error("plugin is broken", instance=name, reason=reason)
