"""Formerly `discovery_apache.engine`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.engine", "discovery_docker.engine")
