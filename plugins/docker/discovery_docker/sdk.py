"""Docker's SDK, imported without the detectors of character sets that requests looks for.

An engine answers in UTF-8, so that nothing has to be detected. The detectors take 4 to 7 MiB of a registrar's memory.
"""

import sys
import warnings
from typing import Any

_DETECTORS = ("chardet", "charset_normalizer")


def _load_without_detectors() -> None:
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in _DETECTORS if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests warns that there is no detector
            import requests  # noqa: F401
    except ImportError:
        pass  # before version 2.32 requests needs a detector: the imports below load it with one
    finally:
        for name in hidden:
            del modules[name]


_load_without_detectors()

import docker  # noqa: E402
from docker.constants import MINIMUM_DOCKER_API_VERSION  # noqa: E402
from docker.errors import APIError, DockerException, NotFound  # noqa: E402
from docker.tls import TLSConfig  # noqa: E402
from docker.utils import version_lt  # noqa: E402

__all__ = [
    "MINIMUM_DOCKER_API_VERSION",
    "APIError",
    "DockerException",
    "NotFound",
    "TLSConfig",
    "docker",
    "version_lt",
]
