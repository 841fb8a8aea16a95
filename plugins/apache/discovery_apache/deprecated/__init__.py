"""Former modules of `discovery_apache`: each name still works, with a DeprecationWarning that names the present module.

`discovery_apache/__init__.py` adds this directory to the path of the package, so `engine.py` here is
`discovery_apache.engine`. The version REMOVED_IN lacks these modules.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

REMOVED_IN = "0.3"
"""The minor version that lacks these modules."""
_MISSING = object()


def moved(former: str, *homes: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of the module that was named `former`. Its names are now in the modules `homes`.

    The warning is a DeprecationWarning at the line that imports the name.
    """

    def attribute(name: str) -> Any:
        for home in homes if not name.startswith("_") else ():
            value = getattr(import_module(home), name, _MISSING)
            if value is not _MISSING:
                advice = f"has moved, and {REMOVED_IN} lacks it here: import {name} from {home}"
                warnings.warn(f"{former}.{name} {advice}", DeprecationWarning, stacklevel=2)
                return value
        raise AttributeError(f"module {former!r} has no attribute {name!r}")

    return attribute
