"""The fixtures of `docker_fixtures`, for the provider `apache`."""

import pytest
from docker_fixtures import *  # noqa: F403 - its __all__ has the fixtures and the hook


@pytest.fixture
def plugin() -> tuple[str, str]:
    """Return the name of the provider, and the key of the engine's URL in its options."""
    return "apache", "docker__url"
