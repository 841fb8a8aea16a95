"""Formerly `discovery.lastnames`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.lastnames", "discovery.consuming.lastnames")
