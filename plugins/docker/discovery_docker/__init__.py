"""A provider that finds, checks and registers the containers of a Docker engine.

The module `discovery_docker.api` is for plugins that build on this plugin.
"""

from collections.abc import Callable

from discovery import AnyProvider, hookimpl
from discovery_docker.provider import DockerProvider


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `docker`."""
    register("docker", DockerProvider)
