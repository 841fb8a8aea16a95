"""The environment of programs that this process starts: its own without the secrets."""

import os
import re
from collections.abc import Mapping

PASSWORD_VARIABLE = "DISCOVERY_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
"""The environment variable that holds the password of a registry whose URL names a user and no password."""
_REGISTRY_VARIABLE = "DISCOVERY_REGISTRY"
_WITH_PASSWORD = re.compile(r"//[^/@]*:[^/]*@")
_TRACE_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?HEADERS")  # the keys of collectors


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `environment` for a child process, without its secrets.

    They are the registry's password, a registry URL that has a password, and the headers for a collector of traces.

    Other processes can read the environment of a child, which also appears in core files and passes to grandchildren. A
    plugin gives the returned environment to each program that the plugin starts. From any thread.
    """
    return {
        name: value
        for name, value in environment.items()
        if name != PASSWORD_VARIABLE
        and not (name == _REGISTRY_VARIABLE and _WITH_PASSWORD.search(value))
        and not _TRACE_HEADERS.fullmatch(name)
    }
