"""Formerly `discovery.environment`."""

from discovery.deprecated import moved

__getattr__ = moved(
    "discovery.environment", "discovery.system.environment", renamed={"for_children": "child_environment"}
)
