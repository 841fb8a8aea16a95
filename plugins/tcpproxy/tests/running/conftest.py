"""What the tests share that use the proxy as a person would."""

from ambassadors import directory, short_path, start_command

__all__ = ["directory", "short_path", "start_command"]
