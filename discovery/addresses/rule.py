"""The rule by which the announced address of a backend is chosen. Pure: the facts of the machine are arguments.

The first of these steps that yields an address decides:

1. the backend's own address on a network that the backend asks for (`SERVICE_NETWORK`) and the configuration allows;
2. the address that the port is published on, unless the port is published on all addresses;
3. the configuration;
4. the environment variable `DISCOVERY_ADDRESS`;
5. the environment variables with private addresses that CoreOS, Flatcar and Afterburn set: `COREOS_PRIVATE_IPV4`, ...;
6. the primary address of this machine.

The configuration and `DISCOVERY_ADDRESS` have the forms of `SOURCES`, and decide alone: later steps add no address of
another family. Steps 5 and 6 decide for each family of addresses. No step reads an address from a label. A public
address is announced only if a person asks for the public address: step 5 leaves out variables such as
`COREOS_PUBLIC_IPV4`.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from discovery.addresses.interfaces import InterfaceAddress
from discovery.addresses.kinds import Family, announceable, family_of, is_unspecified

VARIABLE = "DISCOVERY_ADDRESS"
"""The environment variable with the announced address of this machine: the forms of `SOURCES`, separated by commas."""
SOURCES = "10.0.0.5, interface:eth1, network:10.0.0.0/8, metadata or metadata:public"
"""The forms of an announced address in a configuration, for messages."""
METADATA, PUBLIC = "metadata", "metadata:public"
_INTERFACE, _NETWORK = "interface:", "network:"

_NAME = re.compile(r"(?:[A-Za-z0-9_-]+\.)*(?![0-9]+\.?$|0[xX])[A-Za-z0-9_-]+")
"""A host name, roughly: the registry validates the host of every backend. A last part of digits makes an IP address."""
_INTERFACE_NAME = re.compile(r"[!-.0-~]{1,15}")
"""The name of a network interface: the kernel allows 15 bytes without a slash."""
_FAMILIES: tuple[Family, ...] = (4, 6)  # IPv4 and IPv6
_COREOS = {4: "COREOS_PRIVATE_IPV4", 6: "COREOS_PRIVATE_IPV6"}
"""The variables of /etc/environment on CoreOS."""
_OF_A_CLOUD = re.compile(
    r"(?:COREOS|AFTERBURN)_[A-Z0-9]+_"
    r"(?:PRIVATE_IPV[46]|IPV[46]_PRIVATE|LOCAL_IPV4|IPV4_LOCAL|IP_LOCAL)(?:_0)?"
)
"""The variables with private addresses in /run/metadata/flatcar and /run/metadata/afterburn."""
_MOST_LISTED = 8
"""Interfaces or addresses in a message, which is one line: a machine may have thousands."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An address that other machines are told.

    `host` is the address or a host name. `origin` is the step of the rule that chose the address, for a person.
    """

    host: str
    origin: str

    def __str__(self) -> str:
        """The address and the step, in a line."""
        return f"{self.host} ({self.origin})"


@dataclass(frozen=True, slots=True)
class CloudAddresses:
    """The addresses in the metadata of this machine's cloud: the name of the cloud, the private and public address."""

    cloud: str
    private: str | None = None
    public: str | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Everything that the rule knows of this machine.

    `environment` has the environment variables, and `interfaces` the addresses of network interfaces. `primary` is the
    primary address by family. `metadata` is what the cloud tells, None if nobody has asked the cloud,
    and the reason as text if the cloud does not answer.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    interfaces: tuple[InterfaceAddress, ...] = ()
    primary: Mapping[Family, str] = field(default_factory=lambda: MappingProxyType({}))
    metadata: CloudAddresses | str | None = None


def parse_source(text: str) -> str:
    """Return an announced address of a configuration in canonical form: see `SOURCES`. Raises ValueError, one line."""
    if text in (METADATA, PUBLIC):
        return text
    if text.startswith(_INTERFACE):
        if not _INTERFACE_NAME.fullmatch(text.removeprefix(_INTERFACE)):
            raise ValueError(f"{text[:60]!r} does not name a network interface: write interface:eth1")
        return text
    if text.startswith(_NETWORK):
        try:
            return f"{_NETWORK}{ipaddress.ip_network(text.removeprefix(_NETWORK))}"
        except ValueError:
            raise ValueError(f"{text[:60]!r} does not name a network: write network:10.0.0.0/8") from None
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if family_of(bare) is None and not _NAME.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not an address to announce: write {SOURCES}")
    if not announceable(bare, loopback=True):
        raise ValueError(f"{text[:60]!r} is not an address that other machines can connect to: write {SOURCES}")
    return str(ipaddress.ip_address(bare)) if family_of(bare) else text.lower()


def is_dynamic(source: str) -> bool:
    """Return True if `source`, in canonical form, is read from the machine, and False for an address or a host name."""
    return source in (METADATA, PUBLIC) or source.startswith((_INTERFACE, _NETWORK))


def sources(configured: Sequence[str], environment: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the sources that steps 3 and 4 name, in canonical form, and the name of the step; empty without any.

    Raises ValueError if `DISCOVERY_ADDRESS` is not valid.
    """
    if configured:
        return tuple(configured), "the configuration"
    given = [part.strip() for part in environment.get(VARIABLE, "").split(",")]
    try:
        return tuple(parse_source(part) for part in given if part), VARIABLE
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None


def own_addresses(configured: Sequence[str], facts: MachineFacts) -> tuple[Announced, ...]:
    """Return the addresses of this machine to announce by steps 3 to 6 of the rule, the preferred address first.

    At most one address of each family, and any number of host names. `configured` has sources in canonical form, and
    `facts` is what is known of this machine.
    Empty if this machine has no address that other machines can reach. Raises ValueError, one line, if the
    configuration or `DISCOVERY_ADDRESS` names an address that this machine does not have.
    """
    named, step = sources(configured, facts.environment)
    found: list[Announced] = []
    for source in named:
        origin = f"{step}: {source}" if is_dynamic(source) else step
        try:
            found += (Announced(host, origin) for host in _hosts_of(source, facts))
        except ValueError as error:
            raise (error if configured else ValueError(f"{VARIABLE}: {error}")) from None
    if not named:
        found += _of_environment(facts.environment)
        found += (
            Announced(facts.primary[family], "the primary address of this machine")
            for family in _FAMILIES
            if family in facts.primary
        )
    return tuple(_one_of_each_family(found))


def announced_address(
    own: Sequence[Announced], published: Sequence[str] = ("",), *, requested: str | None = None, loopback: bool = False
) -> tuple[Announced, int] | None:
    """Return the address to announce by the whole rule, and the index of the publication that the address belongs to.

    `own` is the result of `own_addresses`. `published` are the addresses that the port is published on; an unspecified
    address, such as the default, is all addresses of a family, and empty text all addresses of both. `requested` is
    the backend's own address on a network that the configuration allows; its index is -1. A port that is published on a
    loopback address alone is announced there only with `loopback`. None if other machines cannot reach the port.
    """
    if requested is not None:
        return Announced(requested, "SERVICE_NETWORK"), -1
    explicit = "the address that the port is published on"
    for index, host in enumerate(published):
        if announceable(host):
            return Announced(host, explicit), index
    for each in own:
        family = family_of(each.host)
        for index, host in enumerate(published):
            if is_unspecified(host) and (family is None or family_of(host) in (None, family)):
                return each, index
    for index, host in enumerate(published):
        if announceable(host, loopback=loopback):
            return Announced(host, explicit), index
    return None


def _hosts_of(source: str, facts: MachineFacts) -> Iterable[str]:
    """Return the addresses that a source stands for, in order. Raises ValueError if there is none."""
    if source.startswith(_INTERFACE):
        return _of_interface(source.removeprefix(_INTERFACE), facts.interfaces)
    if source.startswith(_NETWORK):
        return _of_network(source.removeprefix(_NETWORK), facts.interfaces)
    if source in (METADATA, PUBLIC):
        return (_of_cloud(source, facts.metadata),)
    return (source,)


def _of_interface(name: str, interfaces: Sequence[InterfaceAddress]) -> Iterable[str]:
    own = [each.address for each in interfaces if each.interface == name]
    if hosts := [address for address in own if announceable(address)]:
        return hosts
    if own:
        raise ValueError(f"the interface {name} has no address that other machines can reach, only {_few(own)}")
    others = _few(dict.fromkeys(each.interface for each in interfaces))
    raise ValueError(f"the interface {name} has no address, or is missing; interfaces with addresses: {others}")


def _of_network(text: str, interfaces: Sequence[InterfaceAddress]) -> Iterable[str]:
    network = ipaddress.ip_network(text)
    addresses = [each.address for each in interfaces if announceable(each.address)]
    if hosts := [address for address in addresses if ipaddress.ip_address(address) in network]:
        return hosts
    raise ValueError(f"this machine has no address in {text}; its addresses: {_few(addresses)}")


def _of_cloud(source: str, metadata: CloudAddresses | str | None) -> str:
    if not isinstance(metadata, CloudAddresses):
        raise ValueError(f"{source}: {metadata or 'the metadata of the cloud is not known'}")
    # A machine without a private network has a public address alone, which is its primary address.
    host = metadata.public if source == PUBLIC else metadata.private or metadata.public
    if host is None:
        kind = "public address" if source == PUBLIC else "address"
        raise ValueError(f"{source}: the metadata of {metadata.cloud} has no {kind} of this machine")
    return host


def _of_environment(environment: Mapping[str, str]) -> Iterable[Announced]:
    """Yield the private addresses in the variables of CoreOS, Flatcar and Afterburn. Other values are left out."""
    for name, value in _private_variables(environment):
        if _is_own(value):
            yield Announced(str(ipaddress.ip_address(value)), name)


def unusable_variables(configured: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables of step 5 whose values are no address that other machines can reach, with their values.

    Variables without a value are left out. Empty if step 3 or 4 decides. `configured` has sources in canonical form.
    Raises ValueError if `DISCOVERY_ADDRESS` is not valid.
    """
    if sources(configured, environment)[0]:
        return {}
    return {name: value for name, value in _private_variables(environment) if value and not _is_own(value)}


def _private_variables(environment: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    names = [*_COREOS.values(), *sorted(name for name in environment if _OF_A_CLOUD.fullmatch(name))]
    return ((name, environment.get(name, "").strip()) for name in dict.fromkeys(names))


def _is_own(value: str) -> bool:
    return family_of(value) is not None and announceable(value)


def _one_of_each_family(found: Iterable[Announced]) -> Iterable[Announced]:
    taken: set[Family | str] = set()
    for each in found:
        kind = family_of(each.host) or each.host
        if kind not in taken:
            taken.add(kind)
            yield each


def _few(texts: Iterable[str]) -> str:
    listed = list(texts)
    more = [f"and {len(listed) - _MOST_LISTED} more"] if len(listed) > _MOST_LISTED else []
    return ", ".join([*listed[:_MOST_LISTED], *more]) or "none"
