"""The composition root: the only module that knows both the registry and the runners."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from discovery import plugins, systemd
from discovery.admin import Admin
from discovery.config import Settings
from discovery.errors import ConfigError
from discovery.files import FileWatch
from discovery.instances import Instances, build
from discovery.isolation import Phase, describe
from discovery.lastgood import LastGood, state_dir
from discovery.logs import configure_logging
from discovery.model import Snapshot
from discovery.registry import Registry
from discovery.rundir import base_run_dir
from discovery.runner import Instance, Runner
from discovery.signals import on_stop
from discovery.status import DaemonStatus
from discovery.watcher import Observation, observe

SHUTDOWN_DEADLINE = 10.0
REMEMBER_AFTER = 3.0
RELOAD_DELAY = 0.1


class Daemon:
    """Follows one registry and keeps every configured consumer in step with it, until told to stop."""

    def __init__(self, load: Callable[[], Settings], config: Path | None, log: FilteringBoundLogger) -> None:
        """`load` reads the settings, now and at every reload; `config` is the file it reads, to be watched."""
        self._load = load
        self._config = config
        self._log = log
        self._settings = load()
        self._run_dir = base_run_dir(self._settings.run_dir)
        self._runners: dict[str, Runner] = {}
        self._snapshot: Snapshot | None = None
        self._snapshot_time: float | None = None
        self._from_disk = False
        self._stale: str | None = None
        self._resets = 0
        self._config_error: str | None = None
        self._admin: Admin | None = None
        self._following: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def status(self) -> DaemonStatus:
        """How everything is now."""
        return DaemonStatus(
            registry=str(self._settings.registry),
            snapshot=self._snapshot,
            snapshot_time=self._snapshot_time,
            snapshot_from_disk=self._from_disk,
            stale=self._stale,
            resets=self._resets,
            consumers=tuple(runner.status for runner in self._runners.values()),
            config_error=self._config_error,
        )

    async def run(self) -> int:
        """Run until a signal, or until no consumer can ever run; return the exit code.

        Raises ConfigError or CannotStartError for what was wrong before anything was started.
        """
        instances = build(self._settings)
        self._report_broken(instances)
        if not instances.usable:
            return 1
        registry = plugins.open_registry(self._settings.registry)
        await self._start_admin()
        loop = asyncio.get_running_loop()
        on_stop(self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        watch = self._watch_config(loop)
        self._log.info("running", registry=str(self._settings.registry), consumers=", ".join(instances.usable))
        for instance in instances.usable.values():
            self._start_runner(instance)
        self._following = asyncio.create_task(self._follow(registry))
        reloads = asyncio.create_task(self._reload_when_asked())
        try:
            return await self._supervise()
        finally:
            systemd.notify("STOPPING=1")
            reloads.cancel()
            self._following.cancel()
            if watch is not None:
                watch.close()
            # At the same time: a registry that hangs must not keep the consumers from what they have to end.
            stopping = self._stop_runners(list(self._runners.values()))
            await asyncio.gather(reloads, self._following, stopping, return_exceptions=True)
            if self._admin is not None:
                await self._admin.close()

    async def _supervise(self) -> int:
        ready = False
        while not self._stop.is_set():
            statuses = [runner.status for runner in self._runners.values()]
            if not ready and all(each.setup_tried for each in statuses):
                ready = True
                systemd.notify("READY=1", f"STATUS=following {self._settings.registry}")
            if statuses and all(each.phase is Phase.DEAD for each in statuses):
                self._log.error("no consumer can run")
                return 1
            if self._following is not None and self._following.done() and not self._following.cancelled():
                self._following.result()  # it never ends by itself: let its exception be seen
            self._changed.clear()
            waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._changed.wait())]
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
        return 0

    # Following the registry

    async def _follow(self, registry: Registry) -> None:
        last_good = LastGood(state_dir(self._settings.state_dir), self._settings.registry, self._log)
        writing = asyncio.create_task(last_good.run())
        remembering = asyncio.create_task(self._remember(last_good))
        try:
            async with aclosing(observe(registry)) as observations:
                async for observation in observations:
                    self._observe(observation)
                    last_good.observe(observation)
                    if observation.stale is not None and self._snapshot is None:
                        self._fall_back(last_good)
        except Exception as error:
            self._log.error("the registry can no longer be followed", exc_info=error)
            raise
        finally:
            remembering.cancel()
            writing.cancel()
            await asyncio.gather(remembering, writing, return_exceptions=True)
            await registry.close()
            self._changed.set()

    def _observe(self, observation: Observation) -> None:
        if observation.stale is not None:
            if observation.stale != self._stale:
                revision = self._snapshot.revision if self._snapshot else None
                self._log.warning("registry cannot be followed", reason=observation.stale, serving_revision=revision)
            if self._stale is None and not self._from_disk:
                self._snapshot_time = time.monotonic() if self._snapshot is not None else None
            self._stale = observation.stale
            return
        if self._stale is not None:
            self._log.info(
                "registry is followed again", revision=observation.snapshot and observation.snapshot.revision
            )
        self._stale = None
        self._resets += observation.reset
        if observation.snapshot is not None:
            self._from_disk = False
            self._snapshot_time = time.monotonic()
            self._publish(observation.snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        if snapshot is self._snapshot:
            return
        known = set(self._snapshot.rejected) if self._snapshot else set()
        for rejected in snapshot.rejected:
            if rejected not in known:
                what = "record rejected" if rejected.field is None else f"field {rejected.field!r} ignored"
                self._log.warning(what, key=rejected.key, reason=rejected.reason)
        self._snapshot = snapshot
        for runner in self._runners.values():
            runner.offer(snapshot)

    async def _remember(self, last_good: LastGood) -> None:
        """A registry that neither answers nor fails must not keep us from serving."""
        await asyncio.sleep(REMEMBER_AFTER)
        if self._snapshot is None:
            self._fall_back(last_good)

    def _fall_back(self, last_good: LastGood) -> None:
        remembered = last_good.load()
        if remembered is None:
            return
        self._log.warning(
            "serving the snapshot that an earlier run remembered",
            revision=remembered.snapshot.revision,
            age_seconds=round(remembered.age),
        )
        self._from_disk = True
        self._snapshot_time = time.monotonic() - remembered.age
        self._publish(remembered.snapshot)

    # Runners

    def _start_runner(self, instance: Instance) -> None:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the daemon has ended and abandoned this consumer
                loop.call_soon_threadsafe(self._changed.set)

        runner = Runner(instance, self._run_dir, self._log, changed)
        self._runners[instance.name] = runner
        if self._snapshot is not None:
            runner.offer(self._snapshot)
        runner.start()

    async def _stop_runners(self, runners: list[Runner]) -> None:
        """Stop them at the same time; one that blocks is abandoned at the deadline, and named."""
        for runner in runners:
            runner.stop()
        stopped = await asyncio.gather(*(runner.join(SHUTDOWN_DEADLINE) for runner in runners))
        for runner, in_time in zip(runners, stopped, strict=True):
            if not in_time:
                self._log.error("consumer did not stop in time and was abandoned", consumer=runner.instance.name)

    # Signals and reloads

    def _on_stop_signal(self, number: signal.Signals) -> None:
        self._log.info("stopping", signal=number.name)
        self._stop.set()

    def _watch_config(self, loop: asyncio.AbstractEventLoop) -> FileWatch | None:
        if self._config is None:
            return None

        def changed() -> None:
            loop.call_soon_threadsafe(self._reload.set)

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
                await self._reload_settings()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and must not end reloading
                self._config_error = describe(error)
                self._log.error("the new configuration is invalid and was not applied", reason=self._config_error)
            else:
                self._config_error = None
            systemd.notify("READY=1")

    async def _reload_settings(self) -> None:
        settings = self._load()
        instances = build(settings)
        registry = None
        if settings.registry != self._settings.registry or settings.state_dir != self._settings.state_dir:
            registry = plugins.open_registry(settings.registry)
        if settings.run_dir != self._settings.run_dir:
            self._log.warning("run_dir has changed: that takes a restart")
        old, self._settings = self._settings, settings
        if settings.admin != old.admin:
            await self._restart_admin(old)
        configure_logging(settings.log.level, settings.log.format)
        self._report_broken(instances)
        gone = [
            runner
            for name, runner in self._runners.items()
            if name not in instances.usable and name not in instances.broken
        ]
        await self._stop_runners(gone)
        for runner in gone:
            del self._runners[runner.instance.name]
        changed = [name for name, instance in instances.usable.items() if self._change(name, instance)]
        if registry is not None:
            await self._follow_instead(registry)
        removed = [runner.instance.name for runner in gone]
        self._log.info("configuration reloaded", changed=", ".join(changed), removed=", ".join(removed))

    def _change(self, name: str, instance: Instance) -> bool:
        """Make the runner `name` be `instance`; False if it is already."""
        runner = self._runners.get(name)
        if runner is None or runner.status.phase in (Phase.DEAD, Phase.STOPPED):
            self._start_runner(instance)
        elif runner.instance != instance:
            runner.reconfigure(instance)
        else:
            runner.request_apply()  # a reload also means: look at your templates and certificates again
            return False
        return True

    async def _follow_instead(self, registry: Registry) -> None:
        """Follow another registry; the snapshot at hand stands until it has told its own."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        self._following = asyncio.create_task(self._follow(registry))

    def _report_broken(self, instances: Instances) -> None:
        for name, reason in instances.broken.items():
            self._log.error("plugin is broken", consumer=name, reason=reason)

    # Admin endpoint

    async def _start_admin(self) -> None:
        if self._settings.admin is None:
            return
        admin = Admin(lambda: self.status)
        try:
            await admin.start(*self._settings.admin)
        except ConfigError as error:
            if not self._settings.admin_is_default:
                raise
            self._log.warning(str(error))
        else:
            self._admin = admin

    async def _restart_admin(self, old: Settings) -> None:
        previous, self._admin = self._admin, None
        try:
            await self._start_admin()
        except ConfigError:
            self._admin = previous
            self._settings = old
            raise
        if previous is not None:
            await previous.close()
