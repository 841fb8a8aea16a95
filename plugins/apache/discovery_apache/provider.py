"""The provider: Docker's containers and the servers of this machine, merged into one inventory."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from types import MappingProxyType

from discovery import Context, Inventory, Provider
from discovery.addresses import Family, primary_address
from discovery_apache.announce import Machine
from discovery_apache.candidates import claims_of, settle, skipped_of
from discovery_apache.config import ApacheConfig
from discovery_apache.container import Container
from discovery_apache.engine import Engine, EngineError, View
from discovery_apache.httpd import local_claims
from discovery_apache.selection import is_selected

_LOOK_AGAIN = 30.0
"""Seconds after which this machine's own addresses are looked at again."""
_PATIENCE = 5.0
"""Seconds that local servers wait for Docker at first, so that what runs there is not withdrawn in between."""
_PAUSE = 0.2
_FAMILIES: tuple[Family, ...] = (4, 6)


class ApacheProvider(Provider[ApacheConfig]):
    """Finds Apache httpd in Docker and on this machine. Where one of the two cannot be seen, the other goes on."""

    Config = ApacheConfig

    def __init__(self, config: ApacheConfig, context: Context) -> None:
        """Keep the arguments."""
        super().__init__(config, context)
        self._view: View | None = None
        self._outage: str | None = None
        self._raised: str | None = None
        self._following: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def setup(self) -> None:
        """Begin to follow Docker, if it is not off."""
        docker = self.config.docker
        if docker is not None:

            def matches(container: Container) -> bool:
                return is_selected(container, docker)

            engine = Engine(docker.url, self.context.log, match=matches)
            self._following = asyncio.create_task(self._follow(engine))

    async def discover(self) -> AsyncGenerator[Inventory, None]:
        """Yield what there is, at every change of Docker's and of this machine's addresses.

        Raises EngineError if Docker is all there is and was never seen, which is not the same as empty.
        """
        loop = asyncio.get_running_loop()
        late = loop.time() + _PATIENCE
        while True:
            self._changed.clear()
            if self._following is not None and self._following.done():
                self._following.result()
            seen = self._following is None or self._view is not None
            if seen or (self.config.httpd and (self._outage is not None or loop.time() >= late)):
                yield self._inventory()
            elif not self.config.httpd and self._outage not in (None, self._raised):
                self._raised = self._outage
                raise EngineError(self._outage)
            wait = _LOOK_AGAIN if seen or loop.time() >= late else late - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def teardown(self) -> None:
        """Let go of Docker."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _follow(self, engine: Engine) -> None:
        """Keep what is known of Docker: the latest view, and why there is no newer one."""
        while True:
            try:
                async with aclosing(engine.follow()) as views:
                    async for view in views:
                        self._view, self._outage = view, None
                        self._changed.set()
            except EngineError as error:
                self._outage = str(error)
                self._changed.set()
            await asyncio.sleep(_PAUSE)

    def _inventory(self) -> Inventory:
        found = {family: address for family in _FAMILIES if (address := primary_address(family)) is not None}
        machine = Machine(socket.gethostname(), found)
        view = self._view or View()
        local, problems = local_claims(self.config, machine)
        contained, more = claims_of(view.containers, view.stopping, self.config, machine)
        candidates, conflicts = settle((*local, *contained))
        problems |= conflicts | more  # what is wrong with a container says more than what it wanted in vain
        if self._outage is not None:
            problems["docker"] = self._outage
        elif self._following is not None and self._view is None:
            problems["docker"] = "the Docker engine does not answer"
        skipped = skipped_of((*view.containers, *view.others), view.stopping, self.config)
        return Inventory(
            candidates,
            MappingProxyType(problems),
            MappingProxyType({name: rule for name, rule in skipped.items() if name not in problems}),
        )
