"""Values of a query string, checked. Pure. Each function raises ValueError that names the parameter and the rule."""

from collections.abc import Mapping

from discovery.fields import service_name


def service_of(query: Mapping[str, str], usage: str) -> str:
    """Return the parameter `service`, a valid name. `usage` tells how to ask."""
    if not (service := query.get("service")):
        raise ValueError(f"service is missing: {usage}")
    return service_name(service)


def whole_number(query: Mapping[str, str], name: str, *, least: int, most: int, default: int) -> int:
    """Return the parameter `name`, a whole number from `least` to `most`; `default` if the query lacks it."""
    text = query.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"{name} has to be a whole number from {least} to {most}, not {text[:100]!r}")
