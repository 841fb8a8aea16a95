"""Fixtures of tests that use the plugin by the commands of a user."""

from daemons import file_registry, start_daemon, tmp_path

__all__ = ["file_registry", "start_daemon", "tmp_path"]
