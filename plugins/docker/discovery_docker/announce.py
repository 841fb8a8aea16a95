"""The announced address of a container's port: an address that other machines can reach. Pure.

The first rule that applies:

1. a Docker network that a label requests and the configuration's `networks` allow: the container's own address there;
2. with the option `network` the container's own address there, with `internal` on the default bridge or its only
   network;
3. for a published port, and for a container on the host's network: the rule of `discovery.addresses`, by which the
   address of the publication precedes the configuration;
4. for a port that is not published: the container's own address on a network among `networks`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from discovery.addresses import Announced, announceable, announced_address, is_unspecified, own_addresses
from discovery_docker.config import MachineOptions
from discovery_docker.container import Binding, Container
from discovery_docker.conventions import quoted
from discovery_docker.machine import Machine
from discovery_docker.mesh import ADVICE, is_behind_mesh, usable_networks
from discovery_docker.rules import Rules

HostPort = tuple[str, int]


class Announcement(NamedTuple):
    """The announced address and port, the reason for the address, and the problem with a requested network, if any."""

    place: HostPort
    origin: str
    problem: str | None


_MOST_LISTED = 8
"""Ports or networks in a message, which is one line: a container may have thousands."""
_BRIDGE = "bridge"
"""The network of containers that are started without `--network`."""
_SET_ADDRESS = "set 'address' (register-container: --host)"


def announce(container: Container, port: int, requested: str | None, rules: Rules, machine: Machine) -> Announcement:
    """Return the address and port to announce. `requested` is the name of the network that a label requests.

    Raises ValueError if no address can be announced, one line with the reason and a remedy.
    """
    problem = None
    if requested is not None:
        if matches_any(requested, rules.options.networks):
            return Announcement((_own_address(container, requested), port), "SERVICE_NETWORK", None)
        problem = f"SERVICE_NETWORK is {quoted(requested)}, which 'networks' does not allow; SERVICE_NETWORK is ignored"
    place, origin = _default_address(container, port, rules, machine)
    return Announcement(place, origin, problem)


def is_reached_directly(container: Container, requested: str | None, rules: Rules) -> bool:
    """Return True if other machines reach the container's ports without publication: by the host's or a Docker network.

    `requested` is the name of the network that a label requests.
    """
    if requested is not None and matches_any(requested, rules.options.networks):
        return True
    return container.network_mode == "host" or rules.containers.network is not None or rules.containers.internal


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a pattern, such as `web-*`, matches the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _default_address(container: Container, port: int, rules: Rules, machine: Machine) -> tuple[HostPort, str]:
    """Return the address and port to announce if no network is requested, and the reason for the address."""
    options, network = rules.options, rules.containers.network
    if network is not None:
        return (_own_address(container, network), port), f"the network {quoted(network)} of the configuration"
    if rules.containers.internal and container.network_mode != "host":
        return (_internal_address(container, rules), port), "the container's own address"
    if container.network_mode == "host":
        return _published(port, (Binding("", port),), "the container is on the host's network", options, machine)
    if bindings := container.ports.get((port, "tcp")):
        return _published(port, bindings, f"port {port} is published on all addresses", options, machine)
    for name in sorted(usable_networks(container)):
        if matches_any(name, options.networks):
            return (_own_address(container, name), port), f"the network {quoted(name)} among 'networks'"
    raise ValueError(not_published(container, rules, port))


def not_published(container: Container, rules: Rules, *ports: int) -> str:
    """Return the message that the container publishes none of `ports`, with its published ports and a remedy."""
    if is_behind_mesh(container):
        return ADVICE
    published = ", ".join(f"{number}/{protocol}" for number, protocol in sorted(container.ports)[:_MOST_LISTED])
    if not ports:
        required, option = "a TCP port", "-p PORT"
    elif len(ports) == 1:
        required, option = f"port {ports[0]}", f"-p {ports[0]}"
    else:
        required, option = f"any of the ports {', '.join(map(str, ports[:_MOST_LISTED]))}", f"-p {ports[0]}"
    if published:
        remedy = f"start the container with {option}"
        if ports:
            remedy = f"set {rules.key('port')} to one of these, or {remedy}"
        return f"the container does not publish {required}, only {published}: {remedy}"
    if container.shares_network:
        return f"the container does not publish {required}, and uses another container's network: publish it there"
    remedy = f"start the container with {option}, or set {rules.key('network')}"
    return f"the container does not publish {required}, nor any other port: {remedy}"


def _published(
    port: int, bindings: Sequence[Binding], where: str, options: MachineOptions, machine: Machine
) -> tuple[HostPort, str]:
    """Return the address and port of a publication, by the rule of `discovery.addresses`, and the reason.

    `where` says, for a message, that the port is published on all addresses.
    """
    # The address of a container in which the provider runs is not the machine's.
    facts = machine.facts if machine.container is None else replace(machine.facts, primary={})
    fault = None
    try:
        own = own_addresses(options.address, facts)
    except ValueError as error:  # no fault of a port that is published on an address of its own
        own, fault = (), str(error)
    hosts = [each.host_ip for each in bindings]
    if (chosen := announced_address(own, hosts, loopback=options.loopback)) is not None:
        announced, index = chosen
        return (announced.host, bindings[index].host_port), announced.origin
    if fault is not None and any(map(is_unspecified, hosts)):
        raise ValueError(f"{where}: {fault}")
    raise ValueError(_unreachable(port, hosts, where, own, machine))


def _unreachable(port: int, hosts: Sequence[str], where: str, own: Sequence[Announced], machine: Machine) -> str:
    if any(map(is_unspecified, hosts)):
        if own:
            addresses = ", ".join(map(str, own))
            return (
                f"port {port} is not published for the family of the announced address, {addresses}: publish it there,"
                f" or {_SET_ADDRESS}"
            )
        return _no_address(where, machine)
    addresses = ", ".join(sorted(set(hosts))) or "no address"
    return (
        f"port {port} is published on {addresses} alone, which other machines cannot reach:"
        f" start the container with -p {port}, or set 'loopback = true' (register-container: --host)"
    )


def _internal_address(container: Container, rules: Rules) -> str:
    """Return the container's address on the default bridge, or else on the only network where it has an address."""
    found = {
        name: address
        for name, addresses in sorted(usable_networks(container).items())
        if (address := next((each for each in addresses if each is not None and announceable(each)), None))
    }
    if len(found) == 1 or _BRIDGE in found:
        return found.get(_BRIDGE) or next(iter(found.values()))
    if found:
        names = ", ".join(map(quoted, list(found)[:_MOST_LISTED]))
        raise ValueError(f"the container has an address on each of the networks {names}: set {rules.key('network')}")
    if container.shares_network:
        raise ValueError("the container uses another container's network, and has no address of its own")
    if is_behind_mesh(container):
        raise ValueError(ADVICE)
    raise ValueError("the container has no address on a Docker network")


def _no_address(what: str, machine: Machine) -> str:
    if machine.container is not None:
        return (
            f"{what}, and the provider in the container {quoted(machine.container)} does not see the machine's"
            f" addresses: {_SET_ADDRESS}, or start that container with --network host"
        )
    return f"{what}, but this machine has no address that other machines can reach: {_SET_ADDRESS}"


def _own_address(container: Container, network: str) -> str:
    addresses = container.networks.get(network)
    for address in addresses or ():
        if address is not None and announceable(address):
            return address
    networks = ", ".join(sorted(container.networks)[:_MOST_LISTED]) or "none"
    state = "has no address" if addresses is not None else "is not"
    raise ValueError(f"the container {state} on the network {quoted(network)}; its networks: {networks}")
