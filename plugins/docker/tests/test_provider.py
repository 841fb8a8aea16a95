"""The inventories of a provider while this machine tells its addresses slowly."""

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path

import structlog

from discovery import Backend, Candidate, Context
from discovery.addresses import MachineFacts
from discovery.testing import within
from discovery_docker.api import ContainerProvider, Machine, RankedCandidate, Rules, machine_addresses
from discovery_docker.config import MachineOptions


class _SlowAddresses:
    """Addresses of a machine whose metadata service answers when `may_answer` is set."""

    blocks = True

    def __init__(self) -> None:
        self.primary = "10.0.0.1"
        self.may_answer = threading.Event()

    def facts(self) -> MachineFacts:
        assert self.may_answer.wait(within(30))
        return MachineFacts(primary={4: self.primary})


class _Local(ContainerProvider[MachineOptions]):
    """A provider without Docker, of a single backend at port `port`."""

    Config = MachineOptions
    port = 1
    finds_more = True

    def rules(self) -> Rules | None:
        return None

    def find_more(self, machine: Machine) -> tuple[list[RankedCandidate], dict[str, str]]:
        (own,) = machine_addresses(self.config, machine)
        return [RankedCandidate(Candidate(Backend("web", "x", own.host, self.port)), "x", (False, False, 0, ""))], {}


async def test_a_change_does_not_wait_for_the_metadata_of_the_cloud(tmp_path: Path) -> None:
    addresses = _SlowAddresses()
    provider = _Local(MachineOptions(), Context("x", tmp_path, structlog.get_logger()))
    provider._own = addresses  # type: ignore[assignment]
    await provider.setup()

    async with aclosing(provider.discover()) as inventories:

        async def found() -> tuple[str, int]:
            (candidate,) = (await asyncio.wait_for(anext(inventories), within(10))).candidates
            return candidate.backend.host, candidate.backend.port

        addresses.may_answer.set()
        assert await found() == ("10.0.0.1", 1)
        addresses.may_answer.clear()
        addresses.primary = "10.0.0.2"
        for provider.port in (2, 3):
            provider._changed.set()
            assert await found() == ("10.0.0.1", provider.port)
        addresses.may_answer.set()
        assert await found() == ("10.0.0.2", 3)
    await provider.teardown()


async def test_in_a_container_the_own_address_is_not_told_as_the_machines(tmp_path: Path) -> None:
    """Whether the container has the host's network is known by the engine alone, which a validation does not ask."""
    context = Context("x", tmp_path, structlog.get_logger())
    told = await _Local(MachineOptions(), context, lambda: "0" * 64).validate()
    assert told.announces == ()
    assert "has the host's network" in "".join(told.unchecked)
    told = await _Local(MachineOptions(address=("10.0.0.5",)), context, lambda: "0" * 64).validate()
    assert told.announces == ("10.0.0.5 (the configuration)",)
    assert told.unchecked == ()
