"""The environment of programs that this process starts: its own without the secrets."""

import os
import re
from collections.abc import Mapping

PASSWORD_VARIABLE = "DISCOVERY_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
"""The environment variable that holds the password of a registry whose URL names a user and no password."""
_REGISTRY_VARIABLE = "DISCOVERY_REGISTRY"
_WITH_PASSWORD = re.compile(r"//[^/@]*:[^/]*@")


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `environment` for a child process: without the registry's password, or a registry URL that has a password.

    Other processes can read the environment of a child, which also appears in core files and passes to grandchildren. A
    plugin gives the returned environment to each program that the plugin starts. From any thread.
    """
    return {
        name: value
        for name, value in environment.items()
        if name != PASSWORD_VARIABLE and not (name == _REGISTRY_VARIABLE and _WITH_PASSWORD.search(value))
    }
