"""Formerly `discovery.files`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.files", "discovery.system.files", "discovery.system.filewatch")
