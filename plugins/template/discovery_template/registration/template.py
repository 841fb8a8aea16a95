"""Registration of the consumer `template`."""

from collections.abc import Callable

from discovery import AnyConsumer, hookimpl
from discovery_template.consumer import TemplateConsumer


@hookimpl
def discovery_register_consumers(register: Callable[[str, type[AnyConsumer]], None]) -> None:
    """Register the consumer `template`."""
    register("template", TemplateConsumer)
