"""The public API of the plugin, for providers of one kind of containers.

A provider of such a kind is a subclass of `ContainerProvider` whose `rules` have a `Kind`. Its configuration is a
subclass of `MachineOptions`, and has a table that is a subclass of `ContainerOptions`, as that of the plugin `apache`.
"""

from discovery_docker.candidates import RankedCandidate
from discovery_docker.config import (
    Checks,
    ContainerOptions,
    Host,
    Id,
    Labels,
    MachineOptions,
    NameSources,
    Pattern,
    Patterns,
    checks_of,
    validated,
)
from discovery_docker.machine import Machine, machine_addresses
from discovery_docker.provider import ContainerProvider
from discovery_docker.rules import Kind, Rules

__all__ = [
    "Checks",
    "ContainerOptions",
    "ContainerProvider",
    "Host",
    "Id",
    "Kind",
    "Labels",
    "Machine",
    "MachineOptions",
    "NameSources",
    "Pattern",
    "Patterns",
    "RankedCandidate",
    "Rules",
    "checks_of",
    "machine_addresses",
    "validated",
]
