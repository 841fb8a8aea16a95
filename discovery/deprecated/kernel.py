"""Formerly `discovery.kernel`."""

from discovery.deprecated import moved

P_PIDFD = 3

__getattr__ = moved("discovery.kernel", "discovery.system.kernel")
