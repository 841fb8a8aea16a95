"""Formerly `discovery.names`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.names", "discovery.consuming.names", renamed={"reached": "first_reachable"})
