"""Formerly `discovery_apache.commands`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.commands", "discovery_docker.commands")
