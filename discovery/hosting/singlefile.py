"""A plugin that is a single file of Python, which a person names by its path; nothing is ever searched for."""

import hashlib
import inspect
import os
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from discovery.errors import ConfigError
from discovery.hookspecs import hookimpl
from discovery.plugin import Consumer, Provider

_SUFFIX = ".py"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_STAMP = "__discovery_stamp__"
"""The attribute of a module that says which contents it was loaded from."""


class SingleFile(NamedTuple):
    """A plugin's file. Has what is needed of an entry point."""

    path: Path
    dist: None = None

    @property
    def value(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @property
    def name(self) -> str:
        """The name of the plugin: that of the file."""
        return self.path.stem

    def load(self) -> Any:
        """Return the module, with hooks for classes that it registers by none.

        The same contents give the same module, so that a reload of the configuration restarts no instance. Raises
        whatever the file raises, and PluginError if it is not clear which class is meant.
        """
        status = self.path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        name = f"discovery_file_{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        known = sys.modules.get(name)
        if known is None or getattr(known, _STAMP, None) != stamp:
            known = _imported(name, self.path)
            setattr(known, _STAMP, stamp)
        return known


def single_file(plugin: str) -> SingleFile:
    """Return the file that a path names. Raises ConfigError if there is no such file, or if it cannot have a name."""
    path = Path(plugin).absolute()
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"the plugin {plugin}: {path} {what}")
    if path.suffix != _SUFFIX or not _NAME.fullmatch(path.stem):
        raise ConfigError(f"the plugin {plugin}: the file's name is not letters, digits, '-' and '_', and {_SUFFIX}")
    return SingleFile(path)


def _imported(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    before, sys.modules[name] = sys.modules.get(name), module  # pydantic looks for the module of a class there
    try:
        # Not by the loader, which may take bytecode of other contents with the same time and size.
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - asked for
        _offer(module, path.stem)
    except BaseException:  # the file may raise anything; no half of a module stays
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _offer(module: ModuleType, name: str) -> None:
    """Add the hooks that the file lacks, for the consumer and the provider that it defines."""
    for base, hook, kind in (
        (Consumer, "discovery_register_consumers", "consumers"),
        (Provider, "discovery_register_providers", "providers"),
    ):
        classes = [
            each
            for each in vars(module).values()
            if inspect.isclass(each)
            and issubclass(each, base)
            and each.__module__ == module.__name__
            and not each.__name__.startswith("_")
        ]
        leaves = [each for each in classes if not any(each in other.__mro__[1:] for other in classes)]
        if hasattr(module, hook) or not leaves:
            continue
        if len(leaves) > 1:
            names = ", ".join(each.__name__ for each in leaves)
            raise ConfigError(f"it defines several {kind}, {names}: keep one, or register them by {hook}")
        setattr(module, hook, _hook(name, leaves[0]))


def _hook(name: str, registered: Any) -> Any:
    @hookimpl
    def register_it(register: Any) -> None:
        register(name, registered)

    return register_it
