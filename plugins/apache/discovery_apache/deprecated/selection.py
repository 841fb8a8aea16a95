"""Formerly `discovery_apache.selection`."""

from discovery_apache.deprecated import moved

__getattr__ = moved(
    "discovery_apache.selection", "discovery_docker.selection", "discovery_docker.naming", "discovery_apache.rules"
)
