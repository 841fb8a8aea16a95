"""The dispositions of signals that this process inherits from its parent."""

import signal

_KEPT = frozenset(
    {
        signal.SIGHUP,  # nohup
        signal.SIGPIPE,  # these two are ignored by Python itself, which resets them for children
        signal.SIGXFSZ,
        signal.SIGTSTP,  # job control
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


def reset_inherited() -> None:
    """Undo that signals are ignored or blocked, for this process and its children. On the main thread alone.

    A shell ignores SIGINT and SIGQUIT for a job in the background, and a parent that ignores SIGCHLD hides how children
    end. SIGHUP stays ignored where it is, since that is what nohup is for, as do the signals of job control.
    """
    for number in signal.valid_signals() - _KEPT:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
