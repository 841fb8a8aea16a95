"""Fixtures of tests that use the template plugin by the commands of a user."""

from daemons import file_registry, install_plugin, start_daemon, tmp_path

__all__ = ["file_registry", "install_plugin", "start_daemon", "tmp_path"]
