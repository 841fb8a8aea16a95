"""Fixtures of the tests of every proxy."""

from daemons import start_daemon, tmp_path

__all__ = ["start_daemon", "tmp_path"]
