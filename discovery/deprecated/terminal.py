"""Formerly `discovery.terminal`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.terminal", "discovery.system.terminal")
