"""Plugins that are named by the path of their file. Imports no plugin and nothing that takes time."""

from pathlib import Path


def is_path(plugin: str) -> bool:
    """Return True if a plugin is named by the path of its file, and not by the name of an entry point."""
    return "/" in plugin or plugin.endswith(".py")


def absolute(plugin: str, directory: Path) -> str:
    """Return a plugin's name as it is, and a path in absolute form: a relative path begins at `directory`."""
    return str(directory.absolute() / plugin) if is_path(plugin) else plugin
