"""Formerly `discovery.backoff`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.backoff", "discovery.system.backoff")
