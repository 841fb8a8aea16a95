"""Formerly `discovery.kernel`."""

from discovery.deprecated import moved

P_PIDFD = 3  # linux/wait.h

__getattr__ = moved("discovery.kernel", "discovery.system.kernel")
