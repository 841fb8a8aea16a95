"""The configuration file: which one is in use, and its tables. Of the settings it knows the paths of plugins alone."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discovery.errors import ConfigError
from discovery.hosting.pluginpath import absolute

DEFAULT_FILE = Path("/etc/discovery/discovery.toml")
FILE_VARIABLE = "DISCOVERY_CONFIG"


def file_in_use(given: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read: `given` (by `--config`), else the one that DISCOVERY_CONFIG names, else the default file.

    None if neither is named and there is no default file. One that exists and may not be read is returned: reading it
    says so, and nothing else is used in its place.
    """
    if given is not None:
        return given
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    try:
        DEFAULT_FILE.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return DEFAULT_FILE


def read_file(path: Path) -> dict[str, Any]:
    """The tables of the file, in which a plugin's relative path begins at the directory of the file.

    Raises ConfigError, naming the file, if it cannot be read or is not TOML.
    """
    try:
        return _with_paths(tomllib.loads(path.read_text("utf-8")), path.parent)
    except OSError as error:
        permission = "ask for permission, or " if isinstance(error, PermissionError) else ""
        way_out = "" if isinstance(error, FileNotFoundError) else f"; {permission}name another with --config"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{way_out}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    except ValueError:  # int() refuses numbers of over 4,300 digits
        raise ConfigError(f"{path}: is not valid TOML: a whole number has too many digits") from None


def _with_paths(tables: dict[str, Any], directory: Path) -> dict[str, Any]:
    for kind in ("consumers", "providers"):
        instances = tables.get(kind)
        for table in instances.values() if isinstance(instances, dict) else ():
            if isinstance(table, dict) and isinstance(table.get("plugin"), str):
                table["plugin"] = absolute(table["plugin"], directory)
    return tables
