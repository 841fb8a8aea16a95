"""Providers of containers: the inventory of the containers of a Docker engine, and of what a subclass adds."""

import asyncio
import socket
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from discovery import Context, Inventory, Provider, Validation
from discovery.addresses import MachineFacts, OwnAddresses
from discovery.toolkit import cancel_and_wait, container_id, wait_for_event
from discovery_docker.candidates import Findings, RankedCandidate, find_candidates, resolve_conflicts
from discovery_docker.config import DockerConfig, MachineOptions
from discovery_docker.container import Container
from discovery_docker.engine import Engine, EngineError, EngineState
from discovery_docker.machine import Machine, machine_addresses, seen_by
from discovery_docker.rules import Rules
from discovery_docker.selection import is_selected

_ADDRESS_INTERVAL = 30.0
"""Seconds between two looks at the addresses of this machine, for which there is no event here."""
_DOCKER_PATIENCE = 5.0
"""Seconds that the first inventory waits for Docker: without containers it would withdraw those of an earlier run."""
_RETRY_DELAY = 0.2
"""Seconds between two attempts to follow Docker, so that a failure costs little CPU time."""

_IN_CONTAINER = (
    "address: in this container the primary address is announced only if the container has the host's network;"
    " otherwise set 'address'"
)

C = TypeVar("C", bound=MachineOptions)


class ContainerProvider(Provider[C]):
    """Finds containers by rules that a subclass makes of its configuration, and what else the subclass finds.

    A failure of Docker does not affect what the subclass finds.
    """

    def __init__(self, config: C, context: Context, find_container: Callable[[], str | None] = container_id) -> None:
        """Keep the arguments; `find_container` returns the id of the container that this process runs in, if any."""
        super().__init__(config, context)
        self._find_container = find_container
        self._state: EngineState | None = None
        self._outage: str | None = None
        self._raised: str | None = None
        self._own_id: str | None = None
        self._own = OwnAddresses(config.address, warn=context.log.warning)
        self._facts: MachineFacts | None = None
        self._look: asyncio.Task[None] | None = None
        self._docker_task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @abstractmethod
    def rules(self) -> Rules | None:
        """Return the rules by which containers are registered; None if the configuration turns Docker off."""

    @property
    def finds_more(self) -> bool:
        """True if the provider finds more than containers. Then an engine that cannot be reached is no error."""
        return False

    def find_more(self, machine: Machine) -> tuple[list[RankedCandidate], dict[str, str]]:
        """Return the candidates on this machine that are no containers, and a problem by source for the others."""
        return [], {}

    async def validate(self) -> Validation:
        """Tell which address would be announced for a port on all addresses. A malformed source is a fault."""
        if (malformed := self._own.malformed) is not None:
            return Validation(faults=(f"address: {malformed}",))
        facts = await self._read_facts()
        in_container = self._find_container() is not None
        if in_container:  # perhaps with a network of its own, which the engine alone knows
            facts = replace(facts, primary={})
        try:
            own = machine_addresses(self.config, Machine(socket.gethostname(), facts))
        except ValueError as error:
            return Validation(unchecked=(f"address: {error}",))
        unchecked = (_IN_CONTAINER,) if in_container and not own else ()
        return Validation(unchecked=unchecked, announces=tuple(map(str, own)))

    async def setup(self) -> None:
        """Begin to follow the Docker engine, unless the configuration turns Docker off."""
        rules = self.rules()
        if rules is not None:

            def matches(container: Container) -> bool:
                return is_selected(container, rules)

            self._own_id = self._find_container()
            identify = self._own_id is not None
            engine = Engine(rules.containers.url, self.context.log, match=matches, identify=identify)
            self._docker_task = asyncio.create_task(self._follow(engine))

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        """Yield the inventory at every change of the containers and of this machine's addresses.

        Raises EngineError if Docker is the only source and has not been reached yet: an inventory would be empty.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DOCKER_PATIENCE
        while True:
            self._changed.clear()
            if self._docker_task is not None and self._docker_task.done():
                self._docker_task.result()
            known = self._docker_task is None or self._state is not None
            if known or (self.finds_more and (self._outage is not None or loop.time() >= deadline)):
                yield self._inventory(await self._read_facts())
            elif not self.finds_more and self._outage not in (None, self._raised):
                self._raised = self._outage
                raise EngineError(self._outage)
            wait = _ADDRESS_INTERVAL if known or loop.time() >= deadline else deadline - loop.time()
            await wait_for_event(self._changed, wait)

    async def teardown(self) -> None:
        """Stop following the Docker engine."""
        await cancel_and_wait(*(task for task in (self._docker_task, self._look) if task is not None))

    async def _follow(self, engine: Engine) -> None:
        """Store the latest state of the engine, and the reason of an outage."""
        while True:
            try:
                async with aclosing(engine.follow()) as states:
                    async for state in states:
                        self._state, self._outage = state, None
                        self._changed.set()
            except EngineError as error:
                self._outage = str(error)
                self._changed.set()
            await asyncio.sleep(_RETRY_DELAY)

    async def _read_facts(self) -> MachineFacts:
        """Return the facts now, or those of the last look while the metadata service is being asked again."""
        if not self._own.blocks:
            return self._own.facts()
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_again())
        if self._facts is None:
            await self._look
        assert self._facts is not None  # noqa: S101 - the first look has ended
        return self._facts

    async def _look_again(self) -> None:
        facts = await asyncio.to_thread(self._own.facts)
        if facts != self._facts:
            self._facts = facts
            self._changed.set()

    def _inventory(self, facts: MachineFacts) -> Inventory:
        state = self._state or EngineState()
        containers = (*state.containers, *state.unmatched)
        machine = seen_by(self._own_id, containers, state.info, socket.gethostname(), facts)
        more, problems = self.find_more(machine)
        rules = self.rules()
        found = Findings() if rules is None else find_candidates(containers, state.stopping, rules, machine)
        candidates, conflicts = resolve_conflicts((*more, *found.candidates))
        problems |= conflicts | found.problems  # a problem of the container itself says more than a conflict
        if self._outage is not None:
            problems["docker"] = self._outage
        elif self._docker_task is not None and self._state is None:
            problems["docker"] = "the Docker engine does not answer"
        skipped = {source: rule for source, rule in found.skipped.items() if source not in problems}
        return Inventory(candidates, MappingProxyType(problems), MappingProxyType(skipped), machine.owner)


class DockerProvider(ContainerProvider[DockerConfig]):
    """Finds the containers of a Docker engine."""

    Config = DockerConfig

    def rules(self) -> Rules:
        """Return the rules of the configuration."""
        return Rules.of(self.config)
