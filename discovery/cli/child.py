"""A command that we run beside ourselves: started without a shell, sent signals, waited for. Knows no registry.

With a controlling terminal it shares our process group: it may read the terminal, Ctrl-Z stops us together, and what
the terminal sends (Ctrl-C) it gets as we do, so that we must not pass it on. Without one it has a group of its own, and
a signal to our group reaches it through us alone, in our order.
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

_SI_KERNEL = 0x80  # bits/siginfo-consts.h: sent by the kernel; of our signals, on behalf of the terminal
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class CannotRunError(DiscoveryError):
    """The command cannot be run; `code` is what a shell would exit with."""

    def __init__(self, message: str, code: int) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code


class Signals:
    """The signals to be passed on, held from now until they are read. Made before any thread is started."""

    def __init__(self) -> None:
        """Block the signals in this thread and in threads that this thread starts.

        A signal that is ignored (nohup) stays ignored.
        """
        self.held = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
        self.mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self.held)

    def release(self) -> None:
        """Let the signals act as before."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask_before)

    def read(self, handle: Callable[[signal.Signals, bool], None]) -> None:
        """Call `handle` on the running loop with each, and whether the terminal sent it."""
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
        """Start it with our streams, and `mask` for its signals. Raises CannotRunError."""
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
        """Send it a signal, unless it has ended."""
        if not self.exit_code.done():
            os.kill(self.pid, number)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for its end, and bury whatever else is left to us: for process 1 of a container, every orphan."""
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None and ended.si_pid != self.pid:
            os.waitpid(ended.si_pid, 0)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._bury)

    def _bury(self) -> None:
        # Here, where `send` is called, so that a signal can never go to another process of the same number.
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.exit_code.set_result(code if code >= 0 else 128 - code)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
