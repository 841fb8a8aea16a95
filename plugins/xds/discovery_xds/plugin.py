"""Registration of the plugin at the core."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_xds.consumer import XdsConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `xds`."""
    register("xds", XdsConsumer)
