"""Formerly `discovery_apache.conventions`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.conventions", "discovery_docker.conventions")
