"""Where a container's port can be reached from other machines. Pure.

The order, of which the first that applies is announced:

1. the network that the container's label names, if the configuration's `networks` allow it: its own address there;
2. the configuration: with `docker.network` its own address there; with `address` that, for a port that is published on
   all addresses of this machine, or that is this machine's own since the container uses its network;
3. the address that the port is published on, and this machine's primary one where it is published on all;
4. for a port that is not published: its own address on a network among `networks`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from discovery.addresses import Family, announceable, family_of, is_unspecified
from discovery_apache.config import ApacheConfig
from discovery_apache.container import Binding, Container
from discovery_apache.conventions import shown

Place = tuple[str, int]
_SET_ADDRESS = "set 'address' (register-container: --host)"


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine: its name, and its primary address of each family, 4 and 6, that it has one of."""

    name: str
    addresses: Mapping[Family, str]


def announce(
    container: Container, port: int, wanted: str | None, config: ApacheConfig, machine: Machine
) -> tuple[Place, str | None]:
    """The address and port to announce, and what is wrong about the network that a label named (`wanted`).

    Raises ValueError if there is none, with the reason and the way out in a line.
    """
    problem = None
    if wanted is not None:
        if allowed(wanted, config.networks):
            return (_own_address(container, wanted), port), None
        problem = f"SERVICE_NETWORK is {shown(wanted)}, which 'networks' does not allow; it is ignored"
    return _place(container, port, config, machine), problem


def is_direct(container: Container, wanted: str | None, config: ApacheConfig) -> bool:
    """Whether its ports are reached without being published: on this machine's network, or on one of its own."""
    if wanted is not None and allowed(wanted, config.networks):
        return True
    return container.network_mode == "host" or (config.docker is not None and config.docker.network is not None)


def allowed(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def machine_addresses(config: ApacheConfig, machine: Machine) -> tuple[str, ...]:
    """The addresses to announce for this machine: the configured ones, else the primary ones, IPv4 first."""
    return config.address or tuple(machine.addresses[family] for family in (4, 6) if family in machine.addresses)


def _place(container: Container, port: int, config: ApacheConfig, machine: Machine) -> Place:
    if config.docker is not None and config.docker.network is not None:
        return _own_address(container, config.docker.network), port
    if container.network_mode == "host":
        if host := next(iter(machine_addresses(config, machine)), None):
            return host, port
        raise ValueError(f"this machine has no address that others can reach: {_SET_ADDRESS}")
    if bindings := container.ports.get((port, "tcp")):
        return _published(port, bindings, config, machine)
    for network in sorted(container.networks):
        if allowed(network, config.networks):
            return _own_address(container, network), port
    raise ValueError(not_published(container, port))


def not_published(container: Container, *ports: int) -> str:
    """That none of the ports is published, what is, and what to do."""
    there = ", ".join(f"{number}/{protocol}" for number, protocol in sorted(container.ports)[:8])
    what = f"port {ports[0]}" if len(ports) == 1 else f"any of the ports {', '.join(map(str, ports[:8]))}"
    if there:
        way_out = f"name one of these ('docker.port'), or start it with -p {ports[0]}"
        return f"it does not publish {what}, only {there}: {way_out}"
    if container.network_mode.startswith("container:"):
        return f"it does not publish {what}, but uses another container's network: publish the port there"
    return f"it does not publish {what}, nor any other: start it with -p {ports[0]}, or set 'docker.network'"


def _published(port: int, bindings: tuple[Binding, ...], config: ApacheConfig, machine: Machine) -> Place:
    everywhere = {family_of(each.host_ip): each for each in bindings if is_unspecified(each.host_ip)}
    bound = [each for each in bindings if not is_unspecified(each.host_ip)]
    for host in config.address:
        family = family_of(host)
        binding = everywhere.get(family) if family else next(iter(everywhere.values()), None)
        if binding is not None:
            return host, binding.host_port
    for binding in bound:
        if announceable(binding.host_ip):
            return binding
    if not config.address:
        for host in machine_addresses(config, machine):
            if binding := everywhere.get(family_of(host)):
                return host, binding.host_port
    for binding in bound:
        if announceable(binding.host_ip, loopback=config.loopback):
            return binding
    raise ValueError(_unreachable(port, bool(everywhere), bound, config))


def _unreachable(port: int, everywhere: bool, bound: list[Binding], config: ApacheConfig) -> str:
    if everywhere and config.address:
        return f"port {port} is not published for the family of 'address' ({', '.join(config.address)})"
    if everywhere:
        where = "on all addresses, but this machine has none that others can reach"
        return f"port {port} is published {where}: {_SET_ADDRESS}"
    place = ", ".join(sorted({each.host_ip for each in bound})) or "no address"
    return (
        f"port {port} is published on {place} alone, which other machines cannot reach:"
        f" start it with -p {port}, or set 'loopback = true' (register-container: --host)"
    )


def _own_address(container: Container, network: str) -> str:
    addresses = container.networks.get(network)
    for address in addresses or ():
        if address is not None and announceable(address):
            return address
    there = ", ".join(sorted(container.networks)[:8]) or "none"
    state = "has no address" if addresses is not None else "is not"
    raise ValueError(f"it {state} on the network {shown(network)}; its networks: {there}")
