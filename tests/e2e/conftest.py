"""Fixtures of tests that use the daemon by the commands of a user."""

from ambassadors import directory, named, short_path, start_command
from daemons import file_registry, install_plugin, start_daemon, tmp_path

__all__ = [
    "directory",
    "file_registry",
    "install_plugin",
    "named",
    "short_path",
    "start_command",
    "start_daemon",
    "tmp_path",
]
