"""Former modules of `discovery`: each name still works, with a DeprecationWarning that names the present module.

`discovery/__init__.py` adds this directory to the path of the package, so `files.py` here is `discovery.files`. The
version REMOVED_IN lacks these modules.
"""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

REMOVED_IN = "0.3"
"""The minor version that lacks these modules. They were public until 0.1, and 0.2 has them with a warning."""
_PUBLIC = ("discovery", "discovery.toolkit", "discovery.fields", "discovery.registry")
_MISSING = object()


def moved(module: str, home: str, *others: str, renamed: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return the `__getattr__` of the former module named `module`, whose names are now in `home` and `others`.

    `renamed` has the present name of each name that has changed. The warning is a DeprecationWarning at the line that
    imports the name; it names the public module that offers the name, or says that the name is private.
    """

    def attribute(name: str) -> Any:
        present = (renamed or {}).get(name, name)
        for place in (home, *others) if not name.startswith("_") else ():
            value = getattr(import_module(place), present, _MISSING)
            if value is not _MISSING:
                warnings.warn(f"{module}.{name} {_advice(present, value)}", DeprecationWarning, stacklevel=2)
                return value
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return attribute


def _advice(name: str, value: object) -> str:
    for place in map(import_module, _PUBLIC):
        if name in place.__all__ and getattr(place, name) is value:
            return f"has moved, and {REMOVED_IN} lacks it here: import {name} from {place.__name__}"
    return f"is private to the core now, and goes away with {REMOVED_IN}: see docs/plugins.md"
