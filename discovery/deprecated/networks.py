"""Formerly `discovery.networks`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.networks", "discovery.fields")
