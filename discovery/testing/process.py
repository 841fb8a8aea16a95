"""What a plugin shares with the rest of its process, and what a plugin leaves behind there."""

import asyncio
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from discovery.testing.support import within

SETTINGS = (
    "working directory",
    "environment",
    "umask",
    "signal handlers",
    "default timeout of sockets",
    "limit of open files",
    "root logger",
    "search path of modules",
    "locale",
    "recursion limit",
)
"""The settings of a process that all plugins share."""


@dataclass(frozen=True)
class Holdings:
    """The threads, children and file descriptors of this process at a moment."""

    threads: frozenset[str]
    children: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> "Holdings":
        """Return what this process has now."""
        threads = frozenset(f"{thread.name} ({id(thread):x})" for thread in threading.enumerate())
        return cls(threads, frozenset(children()), frozenset(descriptors()))

    def more_than(self, before: "Holdings") -> dict[str, list[str]]:
        """Return what is here and was not in `before`, by kind."""
        more = {each.name: sorted(getattr(self, each.name) - getattr(before, each.name)) for each in fields(self)}
        return {kind: names for kind, names in more.items() if names}

    @property
    def counts(self) -> dict[str, int]:
        """The number of things by kind."""
        return {each.name: len(getattr(self, each.name)) for each in fields(self)}


def settings() -> Mapping[str, object]:
    """Return the settings of this process that all plugins share, by name."""
    handlers = {}
    for number in signal.valid_signals():
        with suppress(ValueError):
            handlers[number] = signal.getsignal(number)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    values = (
        _working_directory(),
        environment,
        _umask(),
        handlers,
        socket.getdefaulttimeout(),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        (logging.getLogger().level, [repr(each) for each in logging.getLogger().handlers]),
        [*sys.path],
        locale.setlocale(locale.LC_ALL),
        sys.getrecursionlimit(),
    )
    return dict(zip(SETTINGS, values, strict=True))


def changed_settings(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that differ, with the later value; of the environment, the variables."""
    changed: dict[str, object] = {name: after[name] for name in SETTINGS if before[name] != after[name]}
    for name in ("environment", "signal handlers"):
        if name in changed:
            was, now = before[name], after[name]
            assert isinstance(was, dict)
            assert isinstance(now, dict)
            changed[name] = sorted(str(key) for key in {*was, *now} if was.get(key) != now.get(key))
    return changed


def restore(before: Mapping[str, object]) -> None:
    """Undo changes of most settings, for later tests: what a plugin does not give back must not fail them."""
    with suppress(OSError):
        os.chdir(str(before["working directory"]))
    environment = before["environment"]
    if isinstance(environment, dict):
        for name in set(os.environ) - set(environment) - {"PYTEST_CURRENT_TEST"}:
            del os.environ[name]
        os.environ.update(environment)
    if isinstance(before["umask"], str):
        os.umask(int(before["umask"], 8))
    timeout = before["default timeout of sockets"]
    socket.setdefaulttimeout(timeout if isinstance(timeout, float) else None)
    level, handlers = cast("tuple[int, list[str]]", before["root logger"])
    root = logging.getLogger()
    root.setLevel(level)
    for handler in [each for each in root.handlers if repr(each) not in handlers]:
        root.removeHandler(handler)
    sys.path[:] = cast("list[str]", before["search path of modules"])
    locale.setlocale(locale.LC_ALL, str(before["locale"]))
    sys.setrecursionlimit(cast("int", before["recursion limit"]))


def other_tasks(own: "set[asyncio.Task[object]]") -> list[str]:
    """Return the tasks of this event loop besides `own` and the current task."""
    current = asyncio.current_task()
    return sorted(str(task.get_coro()) for task in asyncio.all_tasks() if task is not current and task not in own)


def descriptors() -> set[str]:
    """Return this process's file descriptors: their numbers and targets."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor with which this loop reads the directory
            found.add(f"{entry.name} -> {entry.readlink()}")
    return found


def children() -> set[str]:
    """Return this process's children: their process ids and names."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended
            for pid in (task / "children").read_text().split():
                found.add(f"process {pid} ({Path('/proc', pid, 'comm').read_text().strip()})")
    return found


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "removed"


def _umask() -> str | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return line.split()[1]
    return None


def left_since(before: Holdings, seconds: float) -> dict[str, list[str]]:
    """Return what this process has more than at `before`, once nothing is left or after `seconds`."""
    deadline = time.monotonic() + within(seconds)
    while (left := Holdings.now().more_than(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
