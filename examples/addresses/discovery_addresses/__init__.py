"""The command `discovery addresses`: prints the addresses of a service."""

from typing import Annotated

import typer
from discovery import follow
from discovery.commands import RegistryOption, drop_in_registry, result


def command(
    service: Annotated[str, typer.Argument(help="The service whose addresses are printed.")],
    registry: RegistryOption = None,
) -> int:
    """Print the address of each backend of a service.

    The exit code is 1 if the service has no backend.
    """
    with follow(drop_in_registry(registry), service) as follower:
        backends = list(follower.snapshot.backends()) if follower.snapshot else []
    for backend in backends:
        result(backend.address)
    return 0 if backends else 1
