"""Formerly `discovery_apache.announce`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.announce", "discovery_docker.announce")
