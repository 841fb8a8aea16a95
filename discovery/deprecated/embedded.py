"""Formerly `discovery.embedded`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.embedded", "discovery.system.embedded")
