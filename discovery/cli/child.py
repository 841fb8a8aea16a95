"""The child process of `discovery register -- COMMAND`: started without a shell, and sent signals.

With a controlling terminal the child is in the process group of this process: the child may read the terminal, Ctrl-Z
stops both processes, and both receive the terminal's signals (Ctrl-C), so this process must not forward such a signal.
Without a controlling terminal the child has a process group of its own, and receives only the signals that this process
sends.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from discovery.errors import DiscoveryError

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)

# The `si_code` of a signal that the kernel sends (bits/siginfo-consts.h). Among the forwarded signals, the kernel sends
# those of the terminal.
_SI_KERNEL = 0x80
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class CannotRunError(DiscoveryError):
    """The command cannot be run. `code` is the exit code with which a shell reports the same failure."""

    def __init__(self, message: str, code: int) -> None:
        """Keep the message and the exit code."""
        super().__init__(message)
        self.code = code


class Signals:
    """Blocks the signals to forward until `read` handles each. Create the object before any thread starts."""

    def __init__(self) -> None:
        """Block the signals in this thread and in threads that this thread starts.

        A signal that is ignored (nohup) stays ignored.
        """
        self.held = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
        self.mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self.held)

    def release(self) -> None:
        """Restore the signal mask from before the object was created."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask_before)

    def read(self, handle: Callable[[signal.Signals, bool], None]) -> None:
        """Call `handle` on the running loop for each signal: the number, and True if the terminal sent the signal."""
        loop = asyncio.get_running_loop()

        def wait() -> NoReturn:
            while True:
                info = signal.sigwaitinfo(self.held)
                number, from_terminal = signal.Signals(info.si_signo), info.si_code == _SI_KERNEL
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(handle, number, from_terminal)

        threading.Thread(target=wait, name="signals", daemon=True).start()


class Child:
    """A running command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], mask: Iterable[int]) -> None:
        """Start `command` with this process's standard streams and the signal mask `mask`. Raises CannotRunError."""
        self.shares_our_group = _has_terminal()
        try:
            self.pid = os.posix_spawnp(
                command[0],
                list(command),
                environment,
                setpgroup=os.getpgrp() if self.shares_our_group else 0,
                setsigmask=mask,
                setsigdef=_IGNORED_BY_PYTHON,
            )
        except FileNotFoundError:
            raise CannotRunError(f"{command[0]}: not found", 127) from None
        except OSError as error:
            raise CannotRunError(f"{command[0]}: {error.strerror}", 126) from None
        loop = asyncio.get_running_loop()
        self.exit_code: asyncio.Future[int] = loop.create_future()
        threading.Thread(target=self._wait, args=(loop,), name="child", daemon=True).start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command, unless the command has ended."""
        if not self.exit_code.done():
            os.kill(self.pid, number)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the end of the command, and reap other children: process 1 of a container adopts every orphan."""
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None and ended.si_pid != self.pid:
            os.waitpid(ended.si_pid, 0)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        # On the thread of `send`: after the reaping, another process may get the same process id.
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.exit_code.set_result(code if code >= 0 else 128 - code)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
