"""Formerly `discovery_apache.container`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.container", "discovery_docker.container")
