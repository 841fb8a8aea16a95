"""Formerly `discovery.rundir`."""

from discovery.deprecated import moved

__getattr__ = moved("discovery.rundir", "discovery.system.rundir", "discovery.system.unixsocket")
