"""Formerly `discovery_apache.candidates`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.candidates", "discovery_docker.candidates", "discovery_apache.statuscheck")
