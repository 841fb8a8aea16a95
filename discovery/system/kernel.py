"""pidfd_open(2), pidfd_send_signal(2) and memfd_create(2).

Python has them, unless it was built on an old system, as portable builds (uv's, for one) are; then the C library is
called directly.
"""

import os
import signal

_SEND_SIGNAL, _OPEN = 424, 434  # numbers of system calls, the same on every architecture
_CLOSE_ON_EXEC = 1  # linux/memfd.h


def pidfd_open(pid: int) -> int:
    """Return a descriptor of the process `pid`, closed on exec. Raises ProcessLookupError, or another OSError."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call("syscall", _OPEN, pid, 0)


def pidfd_send_signal(descriptor: int, number: signal.Signals) -> None:
    """Send the signal `number` to a process. Raises ProcessLookupError, PermissionError, or another OSError."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(descriptor, number)
    else:
        _call("syscall", _SEND_SIGNAL, descriptor, number, None, 0)


def memfd_create(name: str) -> int:
    """Return the descriptor of a new file in memory, closed on exec.

    `name` appears in /proc/PID/fd alone. The caller closes the descriptor. Raises OSError. From any thread.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    return _call("memfd_create", name.encode(), _CLOSE_ON_EXEC)


def _call(function: str, *arguments: int | bytes | None) -> int:
    import ctypes  # here: most builds of Python need it for nothing

    result: int = getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
