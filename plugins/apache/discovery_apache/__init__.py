"""A provider that finds, checks and registers Apache httpd servers, in Docker and on this machine."""

from collections.abc import Callable

from discovery import AnyProvider, hookimpl
from discovery_apache.provider import ApacheProvider


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `apache`."""
    register("apache", ApacheProvider)


# Modules that others could import before this version.
__path__.append(f"{__path__[0]}/deprecated")
