"""The announced address of a container's port: an address that other machines can reach. Pure.

The first rule that applies:

1. a Docker network that a label requests and the configuration's `networks` allow: the container's own address there;
2. the configuration: with `network` the container's own address there, with `internal` on the default bridge or its
   only network; with `address` that address, for a port that is published on all addresses of this machine, and for a
   container on the host's network;
3. the address that the port is published on; for a port on all addresses the primary address of this machine;
4. for a port that is not published: the container's own address on a network among `networks`.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from discovery.addresses import announceable, family_of, is_unspecified
from discovery_docker.config import MachineOptions
from discovery_docker.container import Binding, Container
from discovery_docker.conventions import quoted
from discovery_docker.machine import Machine, machine_addresses
from discovery_docker.rules import Rules

HostPort = tuple[str, int]
_MOST_LISTED = 8
"""Ports or networks in a message, which is one line: a container may have thousands."""
_BRIDGE = "bridge"
"""The network of containers that are started without `--network`."""
_SET_ADDRESS = "set 'address' (register-container: --host)"


def announce(
    container: Container, port: int, requested: str | None, rules: Rules, machine: Machine
) -> tuple[HostPort, str | None]:
    """Return the address and port to announce, and the problem with the network that a label requests, if any.

    `requested` is the name of that network. Raises ValueError if no address can be announced, one line with the reason
    and a remedy.
    """
    problem = None
    if requested is not None:
        if matches_any(requested, rules.options.networks):
            return (_own_address(container, requested), port), None
        problem = f"SERVICE_NETWORK is {quoted(requested)}, which 'networks' does not allow; SERVICE_NETWORK is ignored"
    return _default_address(container, port, rules, machine), problem


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


def _default_address(container: Container, port: int, rules: Rules, machine: Machine) -> HostPort:
    options, network = rules.options, rules.containers.network
    if network is not None:
        return _own_address(container, network), port
    if rules.containers.internal and container.network_mode != "host":
        return _internal_address(container, rules), port
    if container.network_mode == "host":
        if host := next(iter(_announced(options, machine)), None):
            return host, port
        raise ValueError(_no_address("the container is on the host's network", machine))
    if bindings := container.ports.get((port, "tcp")):
        return _published(port, bindings, options, machine)
    for name in sorted(container.networks):
        if matches_any(name, options.networks):
            return _own_address(container, name), port
    raise ValueError(not_published(container, rules, port))


def not_published(container: Container, rules: Rules, *ports: int) -> str:
    """Return the message that the container publishes none of `ports`, with its published ports and a remedy."""
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
    if container.network_mode.startswith("container:"):
        return f"the container does not publish {required}, and uses another container's network: publish it there"
    remedy = f"start the container with {option}, or set {rules.key('network')}"
    return f"the container does not publish {required}, nor any other port: {remedy}"


def _published(port: int, bindings: tuple[Binding, ...], options: MachineOptions, machine: Machine) -> HostPort:
    wildcard = {family_of(each.host_ip): each for each in bindings if is_unspecified(each.host_ip)}
    bound = [each for each in bindings if not is_unspecified(each.host_ip)]
    for host in options.address:
        family = family_of(host)
        binding = wildcard.get(family) if family else next(iter(wildcard.values()), None)
        if binding is not None:
            return host, binding.host_port
    for binding in bound:
        if announceable(binding.host_ip):
            return binding
    if not options.address:
        for host in _announced(options, machine):
            if binding := wildcard.get(family_of(host)):
                return host, binding.host_port
    for binding in bound:
        if announceable(binding.host_ip, loopback=options.loopback):
            return binding
    raise ValueError(_unreachable(port, bool(wildcard), bound, options, machine))


def _unreachable(port: int, wildcard: bool, bound: list[Binding], options: MachineOptions, machine: Machine) -> str:
    if wildcard and options.address:
        return f"port {port} is not published for the family of 'address' ({', '.join(options.address)})"
    if wildcard:
        return _no_address(f"port {port} is published on all addresses", machine)
    addresses = ", ".join(sorted({each.host_ip for each in bound})) or "no address"
    return (
        f"port {port} is published on {addresses} alone, which other machines cannot reach:"
        f" start the container with -p {port}, or set 'loopback = true' (register-container: --host)"
    )


def _internal_address(container: Container, rules: Rules) -> str:
    """Return the container's address on the default bridge, or else on the only network where it has an address."""
    found = {
        name: address
        for name, addresses in sorted(container.networks.items())
        if (address := next((each for each in addresses if each is not None and announceable(each)), None))
    }
    if len(found) == 1 or _BRIDGE in found:
        return found.get(_BRIDGE) or next(iter(found.values()))
    if found:
        names = ", ".join(map(quoted, list(found)[:_MOST_LISTED]))
        raise ValueError(f"the container has an address on each of the networks {names}: set {rules.key('network')}")
    if container.network_mode.startswith("container:"):
        raise ValueError("the container uses another container's network, and has no address of its own")
    raise ValueError("the container has no address on a Docker network")


def _announced(options: MachineOptions, machine: Machine) -> tuple[str, ...]:
    """Return the addresses of the machine that others may be told, in the order of preference."""
    if machine.container is not None and not options.address:
        return ()
    return machine_addresses(options, machine)


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
