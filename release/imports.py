"""Imports every module of the distributions that are installed, all in one process: `python imports.py`.

Libraries that own the same packages, or describe the same messages, stand in each other's way only there. It is run by
the Python of another environment, and imports nothing of the release.
"""

import importlib
import pkgutil
import sys
from importlib.metadata import packages_distributions

_OURS = "discovery"
_LIBRARIES = ("opentelemetry.sdk.trace.export", "envoy.service.discovery.v3.ads_pb2")
"""Of the extra `otel` and of the plugin `xds`: both install files of the package `opentelemetry`."""


def modules() -> list[str]:
    """Return the names of all modules of the packages whose name begins as ours, but those that run as programs."""
    names: list[str] = []
    for package in sorted(name for name in packages_distributions() if name.partition("_")[0] == _OURS):
        names.append(package)
        path = getattr(importlib.import_module(package), "__path__", ())
        names += (each.name for each in pkgutil.walk_packages(path, f"{package}."))
    return [name for name in names if not name.endswith(".__main__")]


def main() -> None:
    """Import all; print how many there are. What cannot be imported raises."""
    names = [*modules(), *_LIBRARIES]
    for name in names:
        importlib.import_module(name)
    sys.stdout.write(f"{len(names)} modules\n")


if __name__ == "__main__":
    main()
