"""The consumers and providers that a daemon runs: begun, changed, stopped and handed over together."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.consuming.history import Change, Delay
from discovery.consuming.inheritance import Inheritance
from discovery.consuming.resolving import Resolved
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.daemon.instances import Instances
from discovery.hosting.directories import Directories
from discovery.hosting.isolation import Phase, PluginStatus
from discovery.registry import Registry
from discovery.system.lookups import RememberedLookups

if TYPE_CHECKING:
    from discovery.providing.provider import RunningProvider
    from discovery.providing.runner import ProviderInstance

POLL_SECONDS = 0.02
"""Seconds between two looks whether every instance has settled, during which a successor waits."""


class RunningInstances:
    """Runs instances, each by its name. For the core's loop."""

    def __init__(
        self,
        directories: Directories,
        log: FilteringBoundLogger,
        changed: Callable[[], None],
        applied: Callable[[], None],
        timed: Callable[[str, int, Sequence[tuple[Change, Delay]]], None],
    ) -> None:
        """Run nothing yet. `changed` is called, from any thread, when the status of an instance may have changed.

        `applied` is called, from any thread, when a consumer has applied a snapshot, and `timed` then with
        its name, the number of the step, and what it took for each change.
        """
        self.consumers: dict[str, ConsumerRunner] = {}
        self.providers: dict[str, RunningProvider] = {}
        self.inheritance = Inheritance()
        """The listening sockets that consumers are offered at their setup."""
        self._directories = directories
        self._log = log
        self._changed = changed
        self._applied, self._timed = applied, timed
        self._lookup = RememberedLookups()  # shared by the checks of all providers

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all instances."""
        return (*self.consumers, *self.providers)

    @property
    def statuses(self) -> list[PluginStatus]:
        """The status of each plugin."""
        return [
            *(consumer.status for consumer in self.consumers.values()),
            *(provider.status.runner for provider in self.providers.values()),
        ]

    @property
    def stop_seconds(self) -> float:
        """Seconds that the slowest instance may take to stop."""
        return max((each.stop_seconds for each in self._instances()), default=0.0)

    @property
    def has_locks(self) -> bool:
        """True once every instance has its directory locked, or cannot lock it."""
        return all(each.lock_tried for each in self.statuses)

    @property
    def settled(self) -> bool:
        """True once every instance serves, or has failed to, or has had its time to begin."""
        return all(each.settled for each in self._instances())

    async def wait_until_settled(self) -> None:
        """Wait until the instances are settled, which takes a bounded time."""
        while not self.settled:  # noqa: ASYNC110 - threads wake no loop
            await asyncio.sleep(POLL_SECONDS)

    async def wait_until_set_up(self) -> None:
        """Wait until a setup of every instance has ended, which is waited for a bounded time."""
        while not all(each.setup_tried for each in self.statuses) and not self.settled:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def offer(self, resolved: Resolved, changes: Sequence[Change]) -> None:
        """Hand a snapshot to every consumer, and the changes since the snapshot before."""
        for runner in self.consumers.values():
            runner.offer(*resolved, changes)

    def run_consumers(self, instances: Mapping[str, ConsumerInstance], latest: Resolved | None) -> list[str]:
        """Run these consumers too, new ones from `latest` on; return the names of those that were not equal before."""
        return [name for name, instance in instances.items() if self._run_consumer(name, instance, latest)]

    def _run_consumer(self, name: str, instance: ConsumerInstance, latest: Resolved | None) -> bool:
        runner = self.consumers.get(name)
        if runner is None or runner.status.phase in (Phase.DEAD, Phase.STOPPED):
            runner = self.consumers[name] = ConsumerRunner(
                instance,
                self._directories.run_dir,
                self._log,
                self._changed,
                self.inheritance,
                self._directories.state_dir_of(name),
                applied=self._applied,
                timed=self._timed,
            )
            if latest is not None:
                runner.offer(*latest)
            runner.start()
        elif runner.instance != instance:
            runner.reconfigure(instance)
        else:
            runner.reload()  # a reload also means: look at your templates and certificates again
            return False
        return True

    async def run_providers(self, instances: "Mapping[str, ProviderInstance]", registry: Registry) -> list[str]:
        """Run these providers too, on `registry`; return the names of those that were not equal before."""
        changed = await asyncio.gather(*(self._run_provider(instance, registry) for instance in instances.values()))
        return [name for name, is_changed in zip(instances, changed, strict=True) if is_changed]

    async def _run_provider(self, instance: "ProviderInstance", registry: Registry) -> bool:
        if (provider := self.providers.get(instance.name)) is not None:
            return await provider.reconfigure(instance, registry)
        from discovery.providing.provider import (
            RunningProvider,  # here: it imports the checks, which few consumers' daemons need
        )

        directories = self._directories
        provider = RunningProvider(
            instance,
            registry,
            directories.run_dir,
            self._log,
            self._lookup,
            self._changed,
            directories.state_dir_of(instance.name),
        )
        self.providers[instance.name] = provider
        provider.start()
        return True

    def close_unused_sockets(self) -> None:
        """Close the inherited sockets that no consumer has taken, once every consumer has been set up."""
        if all(each.status.set_up or each.status.phase is Phase.DEAD for each in self.consumers.values()):
            for address in self.inheritance.close():
                self._log.warning("nobody listens on an inherited socket, which was closed", address=address)

    async def stop_providers(self) -> None:
        """Stop the providers; what they have registered is left to a successor."""
        for provider in self.providers.values():
            provider.stop_and_keep_records()
        await asyncio.gather(*(provider.join(provider.stop_seconds) for provider in self.providers.values()))

    async def hand_over(self, successor: Mapping[str, str]) -> tuple[socket.socket, ...]:
        """Stop the consumers, and return the listening sockets of those that a successor runs, too.

        `successor` has the plugin of each of its instances, by name. Every instance's directory is unlocked. Consumers
        that have handed over sockets go on until `stop`.
        """
        sockets = [*self.inheritance.take()]
        for hands_over in (False, True):  # these last: from then on what connects to them waits
            runners = [runner for runner in self.consumers.values() if runner.hands_over is hands_over]
            for runner in runners:
                same = successor.get(runner.instance.name) == runner.instance.plugin
                runner.hand_over() if same else runner.stop()
            for handed in await asyncio.gather(*(runner.handed_over(runner.stop_seconds) for runner in runners)):
                sockets.extend(handed)
        for each in self._instances():
            each.unlock()  # even if it blocks: it is named when we end
        return tuple(sockets)

    async def stop_missing(self, instances: Instances) -> list[str]:
        """Stop what is not in `instances`, and return the names; what has become broken stays as it is."""
        consumers = self.consumers.keys() - instances.consumers.keys() - instances.broken.keys()
        providers = self.providers.keys() - instances.providers.keys() - instances.broken.keys()
        await self._stop(consumers, providers)
        for name in consumers:
            del self.consumers[name]
        for name in providers:
            del self.providers[name]
        return sorted(consumers | providers)

    def end_drain(self) -> None:
        """Tell the consumers that have handed over, and are stopping, to end their connections. Returns at once."""
        for runner in self.consumers.values():
            runner.end_drain()

    async def stop(self) -> None:
        """Stop everything."""
        await self._stop(self.consumers, self.providers)

    async def _stop(self, consumers: Iterable[str], providers: Iterable[str]) -> None:
        """Stop the runners at the same time; one that blocks is abandoned at the deadline, and named."""
        stopping: dict[tuple[str, str], ConsumerRunner | RunningProvider] = {
            **{("consumer", name): self.consumers[name] for name in consumers},
            **{("provider", name): self.providers[name] for name in providers},
        }
        limits = [each.stop_seconds for each in stopping.values()]
        for each in stopping.values():
            each.stop()
        joins = (each.join(limit) for each, limit in zip(stopping.values(), limits, strict=True))
        for (kind, name), in_time in zip(stopping, await asyncio.gather(*joins), strict=True):
            if not in_time:
                self._log.error(f"{kind} did not stop in time and was abandoned", **{kind: name})

    def _instances(self) -> "list[ConsumerRunner | RunningProvider]":
        return [*self.consumers.values(), *self.providers.values()]
