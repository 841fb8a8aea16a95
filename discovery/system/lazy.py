"""Façade modules: their names are imported from other modules on first use."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(module: str, homes: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of the module named `module`, which imports a name from its home on first use.

    `homes` has the public names by the module that defines them. Any other name is an AttributeError.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def attribute(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(home_of[name]), name)

    return attribute
