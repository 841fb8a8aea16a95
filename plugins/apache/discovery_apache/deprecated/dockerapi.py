"""Formerly `discovery_apache.dockerapi`."""

from discovery_apache.deprecated import moved

__getattr__ = moved("discovery_apache.dockerapi", "discovery_docker.dockerapi")
