"""Finds Apache httpd, in Docker or on the machine, checks it and registers it."""

from collections.abc import Callable

from discovery import AnyProvider, hookimpl
from discovery_apache.provider import ApacheProvider


@hookimpl
def discovery_register_providers(register: Callable[[str, type[AnyProvider]], None]) -> None:
    """Offer the provider `apache`."""
    register("apache", ApacheProvider)
