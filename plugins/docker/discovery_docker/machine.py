"""This machine as a provider sees it: its name, its addresses, and the container that the provider runs in. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from discovery.addresses import Family
from discovery_docker.config import MachineOptions
from discovery_docker.container import Container
from discovery_docker.dockerapi import EngineInfo

_HOST_NAME_DIGITS = 12
"""Digits of a container's id that are its host name, if `docker run` is given no other."""
_ENGINE_DIGITS = 16
"""Hexadecimal digits that distinguish engines in the name of an owner."""
_LONGEST_NAME = 100
"""Characters of a container's name in the name of an owner."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The host name of this machine, and its primary address by address family (4, 6). A family may be absent.

    `container` is the name of the container that the provider runs in, if the container has a network of its own:
    `addresses` are those of the container then. `owner` names the machine in the default owner of records; empty: as
    the core names the machine.
    """

    name: str
    addresses: Mapping[Family, str]
    container: str | None = None
    owner: str = ""


def seen_by(
    own_id: str | None,
    containers: Iterable[Container],
    info: EngineInfo,
    host_name: str,
    addresses: Mapping[Family, str],
) -> Machine:
    """Return the machine of the engine, as the process sees it that runs in the container `own_id`; None: in none.

    `containers` and `info` are those of the engine. `host_name` and `addresses` are those that the process finds. A
    process in a container of another engine, such as a container that runs an engine itself, counts as outside.
    """
    by_id = {container.id: container for container in containers}
    own = by_id.get(own_id or "")
    if own is None:
        return Machine(host_name, addresses)
    if not _is_on_hosts_network(own, by_id):
        is_given = host_name != own.id[:_HOST_NAME_DIGITS]
        return Machine(host_name if is_given else info.name or host_name, addresses, own.name, _owner(own, info))
    return Machine(host_name, addresses, owner=_owner(own, info))


def machine_addresses(options: MachineOptions, machine: Machine) -> tuple[str, ...]:
    """Return the configured addresses of this machine, or else its primary addresses, IPv4 first."""
    return options.address or tuple(machine.addresses[family] for family in (4, 6) if family in machine.addresses)


def _is_on_hosts_network(container: Container, by_id: Mapping[str, Container]) -> bool:
    if container.network_mode.startswith("container:"):  # that of a container which has its own or the host's
        partner = by_id.get(container.network_mode.removeprefix("container:"))
        return partner is not None and partner.network_mode == "host"
    return container.network_mode == "host"


def _owner(own: Container, info: EngineInfo) -> str:
    """Return a name that a later container of the same name has, too, and no other that runs at the same time."""
    if not info.id:
        return ""
    engine = hashlib.sha256(f"{info.id}\0{info.name}".encode()).hexdigest()[:_ENGINE_DIGITS]
    return f"{engine}-{own.name[:_LONGEST_NAME]}"
