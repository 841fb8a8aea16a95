"""Faults of a registry that can be followed nevertheless: read periodically, logged, and shown in health."""

import asyncio

from structlog.typing import FilteringBoundLogger

from discovery.errors import describe
from discovery.registry import Registry, TellsAlarms

EVERY = 5.0
"""Seconds between two times."""


class Alarms:
    """The alarms of a registry, if the registry reports any. On one event loop."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        """Follow no registry yet."""
        self._log = log
        self._registry: Registry | None = None
        self._task: asyncio.Task[None] | None = None
        self.raised: tuple[str, ...] = ()
        """The alarms as of the last answer of the registry, a line for each."""

    def follow(self, registry: Registry) -> None:
        """Follow the alarms of `registry`, and no longer those of the registry before. Idempotent."""
        if registry is self._registry:
            return
        self.stop()
        self._registry = registry
        if isinstance(registry, TellsAlarms):
            self._task = asyncio.create_task(self._follow(registry), name="alarms of the registry")

    def stop(self) -> None:
        """Stop following the registry, and forget its alarms. Idempotent."""
        if self._task is not None:
            self._task.cancel()
        self._registry, self._task, self.raised = None, None, ()

    async def _follow(self, registry: TellsAlarms) -> None:
        while True:
            try:
                self._take(tuple(await registry.alarms()))
            except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
                self._log.debug("the registry's alarms are not known now", reason=describe(error))
            await asyncio.sleep(EVERY)

    def _take(self, alarms: tuple[str, ...]) -> None:
        before, self.raised = self.raised, alarms
        for alarm in alarms:
            if alarm not in before:
                self._log.warning("the registry raises an alarm", alarm=alarm)
        for alarm in before:
            if alarm not in alarms:
                self._log.info("the registry's alarm is over", alarm=alarm)
