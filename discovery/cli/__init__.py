"""The command `discovery`: runs the typer app, and turns exceptions into exit codes and lines on stderr.

Exit codes: 0 success, 2 wrong usage or configuration, 1 any other failure, 130 interrupted by Ctrl-C.
"""

import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from discovery.cli.console import abandon_stdout, note, prepare_streams
from discovery.cli.interrupts import INTERRUPTED, interrupts_handled
from discovery.errors import ConfigError, DiscoveryError, PluginError
from discovery.system.dispositions import reset_inherited

__all__ = ["main"]

_WHILE_LOADING, _AFTERWARDS = 200_000, 10_000
"""How many objects are made between two collections of the youngest. `run --plugin haproxy` loads 86,000 objects; with
the Apache plugin they are more than 100,000."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, by default `sys.argv`, and return the exit code. Raises no Exception."""
    prepare_streams()
    reset_inherited()
    _collect_rarely_while_loading()
    try:
        with interrupts_handled():
            code = _run(arguments)
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
        return INTERRUPTED
    except OSError as error:
        return _system(error)
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a line, not a traceback
        return INTERRUPTED if _is_an_interrupt(error) else _unexpected(error)
    return code


def _collect_rarely_while_loading() -> None:
    """Put the first garbage collection off, once in a process, until the imports are complete.

    Imports make very many objects and hardly any garbage: the garbage collector would take a tenth of the start.
    """
    if gc.get_freeze_count() or _collect_more_often in gc.callbacks:
        return  # the process has called `main` before, or has arranged its garbage collection itself
    gc.set_threshold(_WHILE_LOADING, 10, 10)
    gc.callbacks.append(_collect_more_often)


def _collect_more_often(phase: str, _: object) -> None:
    """Restore the usual threshold after the first garbage collection, when the imports are complete.

    No later collection looks at what was loaded: with the first listing of 100,000 backends that would take 0.1 s,
    while the consumers apply the listing. An object in no cycle is still deleted with its last reference. The freeze
    comes after that collection: frozen garbage is never finalized.
    """
    if phase == "stop":
        gc.freeze()
        gc.callbacks.remove(_collect_more_often)
        gc.set_threshold(_AFTERWARDS, 10, 10)


def _run(arguments: Sequence[str] | None) -> int:
    import typer  # imported here, so that `main` handles a Ctrl-C during the import

    from discovery.cli.app import app

    # Recent versions of typer contain a copy of click. This is the class UsageError of the click that typer uses.
    usage_error: type[Any] = typer.BadParameter.__mro__[1]
    try:
        code = app(arguments, prog_name="discovery", standalone_mode=False)
    except typer.Abort:
        return 1
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "discovery"
        _reword(error)
        message = " ".join(error.format_message().split())  # click lists choices on lines of their own
        note(f"{message.rstrip('.')}; see `{command} --help`")
        return 2
    return code if isinstance(code, int) else 0


def _is_an_interrupt(error: BaseException) -> bool:
    """Return True if a Ctrl-C is the cause: a module that is being loaded may turn a Ctrl-C into another error."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, KeyboardInterrupt) or "KeyboardInterrupt" in str(behind):
            return True
        behind = behind.__cause__ or behind.__context__
    return False


def _reword(error: Any) -> None:
    """Give an error the words of a fault of the configuration, where typer leaves the wording to pydantic."""
    if type(error.__cause__).__name__ == "ValidationError":
        from discovery.daemon.faults import in_words

        error.message = in_words(error.__cause__)


def _system(error: OSError) -> int:
    if error.filename is not None:
        note(f"{os.fsdecode(error.filename)}: {error.strerror}")
    elif error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        abandon_stdout()
        note(f"stdout cannot be written: {error.strerror}")
    else:
        return _unexpected(error)
    return 1


def _unexpected(error: Exception) -> int:
    if os.environ.get("DISCOVERY_DEBUG"):
        import traceback

        traceback.print_exception(error)
    first = next(iter(str(error).splitlines()), "")
    hint = "" if os.environ.get("DISCOVERY_DEBUG") else "; `discovery --debug ...` shows where"
    note(f"unexpected {type(error).__name__}: {first}{hint}")
    return 1
