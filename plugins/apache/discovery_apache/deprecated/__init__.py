"""Former modules of `discovery_apache`: each name still works, with a DeprecationWarning that names the present module.

`discovery_apache/__init__.py` adds this directory to the path of the package, so `engine.py` here is
`discovery_apache.engine`. The next minor version removes these modules.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

_MISSING = object()


def moved(former: str, *homes: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of the module that was named `former`. Its names are now in the modules `homes`.

    The warning is a DeprecationWarning at the line that imports the name.
    """

    def attribute(name: str) -> Any:
        for home in homes if not name.startswith("_") else ():
            value = getattr(import_module(home), name, _MISSING)
            if value is not _MISSING:
                warnings.warn(f"{former}.{name} has moved: import {name} from {home}", DeprecationWarning, stacklevel=2)
                return value
        raise AttributeError(f"module {former!r} has no attribute {name!r}")

    return attribute
