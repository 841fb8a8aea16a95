"""Formerly `discovery.validation`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.validation", "discovery.daemon.faults")
