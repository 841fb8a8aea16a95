"""Formerly `discovery.certificates`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.certificates", "discovery.system.certificates")
