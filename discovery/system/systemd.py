"""Talking with systemd: sd_notify(3), and the sockets of sd_listen_fds(3). Nothing happens outside systemd."""

import errno
import os
import socket
import stat
import time
from collections.abc import MutableMapping
from contextlib import suppress

_FIRST = 3  # SD_LISTEN_FDS_START


def notify(*states: str) -> None:
    """Send assignments such as `READY=1` to the service manager, if present."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(states).encode(), address)


def reloading() -> None:
    """Tell systemd that a reload has begun; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def listen_fds(environment: MutableMapping[str, str] = os.environ) -> tuple[tuple[socket.socket, ...], list[str]]:
    """The listening sockets that systemd passed to this process, and what is wrong with others, each in a line.

    They are ours alone: children get neither them nor the variables that tell of them. To be called once, and before
    anything else is opened.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):  # meant for a parent of ours, which has passed on its environment
        return (), []
    if not (count.isascii() and count.isdigit()):
        return (), [f"LISTEN_FDS is {count!r}, no number of descriptors"]
    sockets, faults = [], []
    for descriptor in range(_FIRST, _FIRST + min(int(count), os.sysconf("SC_OPEN_MAX"))):
        try:
            if not os.get_inheritable(descriptor):  # opened by ourselves
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            os.set_inheritable(descriptor, False)
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError as error:
            faults.append(f"LISTEN_FDS is {count}, but descriptor {descriptor} cannot be used: {error.strerror}")
            break
        passed = socket.socket(fileno=descriptor) if is_socket else None
        if passed is not None and is_listening(passed):
            sockets.append(passed)
        else:
            what = "no listening stream socket and no bound UDP socket"
            faults.append(f"descriptor {descriptor} is {what}, and was closed")
            os.close(passed.detach() if passed is not None else descriptor)
    return tuple(sockets), faults


def is_listening(passed: socket.socket) -> bool:
    """Return True for a stream socket that listens, and for a bound UDP socket that is not connected."""
    if passed.type == socket.SOCK_DGRAM and passed.family in (socket.AF_INET, socket.AF_INET6):
        return bool(passed.getsockname()[1]) and not _is_connected(passed)
    return passed.type == socket.SOCK_STREAM and bool(passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_connected(passed: socket.socket) -> bool:
    try:
        passed.getpeername()
    except OSError:
        return False
    return True
