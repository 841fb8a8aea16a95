"""This machine as a provider sees it: its name, its addresses, and the container that the provider runs in. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from discovery.addresses import Announced, MachineFacts, own_addresses
from discovery_docker.config import MachineOptions
from discovery_docker.container import Container
from discovery_docker.dockerapi import EngineInfo

_HOST_NAME_DIGITS = 12
"""Digits of a container's id that are its host name, if `docker run` is given no other."""
_ENGINE_DIGITS = 16
"""Hexadecimal digits that distinguish engines in the name of an owner."""
_LONGEST_NAME = 100
"""Characters of a container's name in the name of an owner."""
_TASK = "com.docker.swarm.task.id"
"""The label with the id of a task of Swarm, with which the name of its container ends."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The host name of this machine, and the facts from which the announced address follows.

    `container` is the name of the container that the provider runs in, if the container has a network of its own: the
    primary address in `facts` is that of the container then. `owner` names the machine in the default owner of records;
    empty: as the core names the machine.
    """

    name: str
    facts: MachineFacts
    container: str | None = None
    owner: str = ""


def seen_by(
    own_id: str | None,
    containers: Iterable[Container],
    info: EngineInfo,
    host_name: str,
    facts: MachineFacts,
) -> Machine:
    """Return the machine of the engine, as the process sees it that runs in the container `own_id`; None: in none.

    `containers` and `info` are those of the engine. `host_name` and `facts` are those that the process finds. A
    process in a container of another engine, such as a container that runs an engine itself, counts as outside.
    """
    by_id = {container.id: container for container in containers}
    own = by_id.get(own_id or "")
    if own is None:
        return Machine(host_name, facts)
    if not _is_on_hosts_network(own, by_id):
        is_given = host_name != own.id[:_HOST_NAME_DIGITS]
        return Machine(host_name if is_given else info.name or host_name, facts, own.name, _owner(own, info))
    return Machine(host_name, facts, owner=_owner(own, info))


def machine_addresses(options: MachineOptions, machine: Machine) -> tuple[Announced, ...]:
    """Return the addresses of this machine to announce, by the rule of `discovery.addresses`.

    Raises ValueError if the configuration names an address that this machine does not have.
    """
    return own_addresses(options.address, machine.facts)


def _is_on_hosts_network(container: Container, by_id: Mapping[str, Container]) -> bool:
    if container.shares_network:  # that of a container which has its own or the host's
        partner = by_id.get(container.network_owner)
        return partner is not None and partner.network_mode == "host"
    return container.network_mode == "host"


def _owner(own: Container, info: EngineInfo) -> str:
    """Return a name that a later container of the same name has, too, and no other that runs at the same time.

    A task of Swarm has it from its service and its slot or node: the next task there has another id.
    """
    if not info.id:
        return ""
    engine = hashlib.sha256(f"{info.id}\0{info.name}".encode()).hexdigest()[:_ENGINE_DIGITS]
    task = own.labels.get(_TASK)
    name = own.name.removesuffix(f".{task}") if task else own.name
    return f"{engine}-{name[:_LONGEST_NAME]}"
