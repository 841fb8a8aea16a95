"""This machine as a provider in a container, and outside, sees it."""

import re
from collections.abc import Mapping

import pytest

from discovery.addresses import MachineFacts
from discovery_docker.container import Container
from discovery_docker.dockerapi import EngineInfo
from discovery_docker.machine import Machine, seen_by

OWN, OTHER = "a1" * 32, "b2" * 32
INFO = EngineInfo("ABCD:EFGH", "host-1")
FACTS = MachineFacts(primary={4: "172.17.0.2"})


def own(mode: str = "bridge", name: str = "registrar") -> Container:
    return Container(OWN, name, running=True, network_mode=mode)


def seen(*containers: Container, own_id: str | None = OWN, host: str = OWN[:12], info: EngineInfo = INFO) -> Machine:
    return seen_by(own_id, containers, info, host, FACTS)


def test_a_provider_outside_a_container_has_the_name_and_addresses_of_its_machine() -> None:
    assert seen(own(), own_id=None, host="m") == Machine("m", FACTS)


@pytest.mark.parametrize("containers", [(), (Container(OTHER, "other", running=True),)])
def test_so_has_a_provider_whose_container_belongs_to_another_engine(containers: tuple[Container, ...]) -> None:
    assert seen(*containers, host="m") == Machine("m", FACTS)


def test_a_provider_in_a_container_with_a_network_of_its_own_knows_that_its_addresses_are_not_the_machines() -> None:
    machine = seen(own())
    assert machine.container == "registrar"
    assert machine.name == "host-1"
    assert seen(own(), host="given").name == "given"  # by docker run --hostname
    assert seen(own(), info=EngineInfo("x", "")).name == OWN[:12]


def test_a_container_on_the_hosts_network_has_the_addresses_of_the_machine() -> None:
    assert seen(own("host"), host="m").container is None
    partner = Container(OTHER, "partner", running=True, network_mode="host")
    assert seen(own(f"container:{OTHER}"), partner).container is None
    assert seen(own(f"container:{OTHER}"), Container(OTHER, "partner", running=True)).container == "registrar"
    assert seen(own(f"container:{OTHER}")).container == "registrar"
    assert seen(own(f"container:{OWN}")).container == "registrar"


def test_the_owner_is_the_same_for_a_container_of_the_same_name_on_the_same_engine() -> None:
    owner = seen(own()).owner
    assert re.fullmatch(r"[0-9a-f]{16}-registrar", owner)
    assert seen_by(OTHER, [Container(OTHER, "registrar", network_mode="host")], INFO, "x", FACTS).owner == owner
    others = [seen(own(), info=EngineInfo("other", "host-1")), seen(own(), info=EngineInfo("ABCD:EFGH", "clone"))]
    assert len({owner, seen(own(name="second")).owner, *(each.owner for each in others)}) == 4
    assert seen(own(), info=EngineInfo("", "host-1")).owner == ""
    assert seen(own(), own_id=None).owner == ""
    assert len(seen(own(name="x" * 1000)).owner) <= 128


@pytest.mark.parametrize("place", ["shop_registrar.1", "shop_registrar.6r4re3znlhjhvt3kk0ycs88zu"])
def test_the_owner_is_the_same_for_the_next_task_of_a_service_of_swarm(place: str) -> None:
    """Its name ends with its id, behind the slot, or behind the node of a global service."""

    def task(id_: str, labels: Mapping[str, str]) -> str:
        return seen(Container(OWN, f"{place}.{id_}", running=True, labels=labels)).owner

    first, second = (task(each, {"com.docker.swarm.task.id": each}) for each in ("pdv0guhk95d9", "vwc4qmk9exgt"))
    assert first == second
    assert first.endswith(f"-{place}")
    assert task("pdv0guhk95d9", {}).endswith(".pdv0guhk95d9")  # as a person has named it
