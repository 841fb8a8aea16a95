"""The fixtures of `docker_fixtures`, for the provider `docker`."""

from docker_fixtures import *  # noqa: F403 - its __all__ has the fixtures and the hook
