"""The requirements of tests that start Docker engines."""

from docker_fixtures import _requirements

__all__ = ["_requirements"]
