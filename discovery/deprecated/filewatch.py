"""Formerly `discovery.filewatch`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.filewatch", "discovery.system.filewatch")
