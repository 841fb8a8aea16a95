"""The contract of providers, for the provider `docker` on a real engine."""

import asyncio
from contextlib import closing

import docker
import pytest
from docker_lab import DockerEngine

from discovery import AnyProvider
from discovery.testing import ProviderContract
from discovery_docker.provider import DockerProvider


class TestDocker(ProviderContract):
    """One container in world 0, two and a broken one in world 1."""

    provider = DockerProvider
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _engine(self, docker_engine: DockerEngine) -> None:
        self.engine = docker_engine
        self.config = {"url": docker_engine.url, "names": "*"}

    def arrange(self, world: int) -> None:
        # With a client of its own, as it looks for descriptors that were left open.
        with closing(docker.DockerClient(self.engine.url, version="auto")) as client:
            there = {container.name: container for container in client.containers.list(all=True)}
            for name, ports, wanted in (
                ("web-1", {"80/tcp": (self.engine.address, None)}, True),
                ("web-2", {"80/tcp": (self.engine.address, None)}, world == 1),
                ("broken", {}, world == 1),
            ):
                if wanted and name not in there:
                    client.containers.run("busybox", name=name, detach=True, ports=ports)
                elif name in there and not wanted:
                    there[name].remove(force=True)

    def test_what_cannot_be_seen_is_raised_and_never_less_is_found(self) -> None:
        """The outage is a problem and not an error, since the provider waits for the engine; the candidates stand."""

        async def check(provider: AnyProvider) -> None:
            async with self._watching(provider) as seen:
                first = await seen.first()
                assert first.problems == {}
                assert first.candidates
                self.engine.kill()
                try:
                    await seen.until(lambda: "docker" in seen.latest.problems, "the outage to be told")
                    assert str(self.engine.socket) in seen.latest.problems["docker"]
                    assert {each.candidates for each in seen.inventories} == {first.candidates}
                finally:
                    await asyncio.to_thread(self.engine.start)
                await seen.until(lambda: not seen.latest.problems, "the engine to be found again")

        self._run(check)
