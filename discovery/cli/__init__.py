"""The command `discovery`: one app, one place where exceptions become exit codes and lines on stderr.

Exit codes: 0 done, 2 usage or configuration, 1 anything else, 130 interrupted where nothing handled it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from discovery.cli.app import app
from discovery.cli.console import abandon_stdout, note
from discovery.errors import ConfigError, DiscoveryError, PluginError

__all__ = ["app", "main"]

# typer has carried click within itself since 0.16 or so; this is the class in either.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` by default, and return the exit code. Never raises for what a user can do."""
    try:
        code = app(arguments, prog_name="discovery", standalone_mode=False)
        sys.stdout.flush()
    except (ConfigError, PluginError) as error:
        for fault in str(error).splitlines():
            note(fault)
        return 2
    except DiscoveryError as error:
        note(str(error))
        return 1
    except BrokenPipeError:
        abandon_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    except typer.Abort:
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a line, not a traceback
        if isinstance(error, _UsageError):
            return _usage(error)
        return _unexpected(error)
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    command = error.ctx.command_path if error.ctx else "discovery"
    note(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    return 2


def _unexpected(error: Exception) -> int:
    if os.environ.get("DISCOVERY_DEBUG"):
        import traceback

        traceback.print_exception(error)
    first = next(iter(str(error).splitlines()), "")
    hint = "" if os.environ.get("DISCOVERY_DEBUG") else "; `discovery --debug ...` shows where"
    note(f"unexpected {type(error).__name__}: {first}{hint}")
    return 1
