"""Formerly `discovery.lookups`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.lookups", "discovery.system.lookups")
