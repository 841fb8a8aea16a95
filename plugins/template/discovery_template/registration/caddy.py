"""Registration of the consumer `caddy`."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_template.proxies.caddy import CaddyConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `caddy`."""
    register("caddy", CaddyConsumer)
