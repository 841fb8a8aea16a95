"""The rules by which a provider registers containers: its options, and the kind of containers that it looks for."""

from dataclasses import dataclass

from discovery import Check
from discovery_docker.config import ContainerOptions, DockerConfig, MachineOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of containers, which a provider looks for if its options select no containers.

    `images` are patterns of image names, and `port` is the usual port within these containers. A container of another
    image is selected if the container requests a name and has the port. Without `images` every container is selected,
    and without `port` all of its ports are registered. `noun` names such an image in a message: "an Apache image".
    `table` is the beginning of the names of ContainerOptions in the configuration: "docker.". `checks` are the kind's
    own checks of a container; with `replaces_check` these stand in for the configured check, unless a container
    requests a check.
    """

    images: tuple[str, ...] = ()
    port: int | None = None
    noun: str = ""
    table: str = ""
    checks: tuple[Check, ...] = ()
    replaces_check: bool = False


ANY = Kind()
"""Containers of every kind."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a provider: the options that its configuration gives, the weight of its backends, and the kind."""

    options: MachineOptions
    containers: ContainerOptions
    weight: int = 1
    kind: Kind = ANY

    @classmethod
    def of(cls, config: DockerConfig) -> "Rules":
        """Return the rules of a provider `docker`."""
        return cls(config, config, config.weight)

    def key(self, name: str) -> str:
        """Return the name of a field of `containers` for a message, as the configuration has it."""
        return f"'{self.kind.table}{name}'"
