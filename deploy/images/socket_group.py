"""Gives up root for the group of the engine's socket, and becomes the program that the command line names.

The entrypoint of the image docker-register: the socket belongs to root and a group whose number only the machine knows.
Nothing from outside is read before: no argument, no environment variable and no file. The standard library alone.
"""

import _signal  # type: ignore[import-not-found]

# Process 1 loses a signal that it neither handles nor blocks; a blocked one waits for the program. The signals are
# blocked before anything else, by a module that the interpreter contains: Python's start before takes 10 ms.
_signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP})

import ctypes  # noqa: E402
import os  # noqa: E402
import stat  # noqa: E402
import sys  # noqa: E402

USER = 65532
SOCKETS = ("/run/docker.sock", "/run/podman/podman.sock")
"""Where the engine's socket is mounted; in the image /var/run is /run."""

_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, _PR_CAPBSET_DROP = 38, 47, 4, 24  # linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_STATUS = {"NoNewPrivs": {"1"}, **{f"Cap{each}": {"0" * 16} for each in ("Inh", "Prm", "Eff", "Amb")}}


def socket_group() -> int | None:
    """Return the group of the first socket of an engine; None if none is mounted."""
    for path in SOCKETS:
        try:
            status = os.stat(path)  # noqa: PTH116 - pathlib takes long to load
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            return status.st_gid
    return None


def give_up_root(group: int) -> None:
    """Become `USER` in `group` alone, without capabilities and without a way to others, for ever. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Not every container may change its bounding set, which gives nothing without programs that are set-user-id.
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([group])
    os.setresgid(group, group, group)
    os.setresuid(USER, USER, USER)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _check(group)


def _check(group: int) -> None:
    """Raise OSError unless the kernel says that nothing is left."""
    wanted = {**_STATUS, "Uid": {str(USER)}, "Gid": {str(group)}, "Groups": {str(group)}}
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:  # noqa: PTH123 - pathlib takes long to load
        found = {name: set(values.split()) for name, _, values in (line.partition(":") for line in lines)}
    left = sorted(name for name, values in wanted.items() if found.get(name) != values)
    if left:
        raise OSError(f"the process has kept something in {', '.join(left)} of /proc/self/status")


def main() -> None:
    """Give up root if this is root, and run the program in place of this one."""
    if os.geteuid() == 0:
        try:
            group = socket_group()
            give_up_root(USER if group is None else group)
        except OSError as error:
            sys.exit(
                f"root cannot be given up: {error.strerror or error}; start the container with the capabilities SETUID"
                f" and SETGID, or with --user {USER}:GROUP, where GROUP is the number of the socket's group"
            )
    program = sys.argv[1:]
    os.execv(program[0], program)  # noqa: S606 - there is no shell


if __name__ == "__main__":
    main()
