"""pidfd_open(2), pidfd_send_signal(2) and memfd_create(2).

Python has them, unless it was built on an old system, as portable builds (uv's, for one) are; then the C library is
called directly.
"""

import ctypes
import os
import signal
from typing import Final

P_PIDFD: Final = 3  # for os.waitid; from linux/wait.h
_SEND_SIGNAL = 424  # numbers of system calls, the same on every architecture
_OPEN = 434
_CLOSE_ON_EXEC = 1  # linux/memfd.h


def pidfd_open(pid: int) -> int:
    """A descriptor of the process, closed on exec. Raises ProcessLookupError, or another OSError."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call(_OPEN, pid, 0)


def pidfd_send_signal(descriptor: int, number: signal.Signals) -> None:
    """Send the process a signal. Raises ProcessLookupError, PermissionError, or another OSError."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(descriptor, number)
    else:
        _call(_SEND_SIGNAL, descriptor, number, None, 0)


def memfd_create(name: str) -> int:
    """A descriptor of a new file in memory, closed on exec. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    return _checked(ctypes.CDLL(None, use_errno=True).memfd_create(name.encode(), _CLOSE_ON_EXEC))


def _call(number: int, *arguments: int | None) -> int:
    return _checked(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
