"""Formerly `discovery.logs`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.logs", "discovery.system.logs")
