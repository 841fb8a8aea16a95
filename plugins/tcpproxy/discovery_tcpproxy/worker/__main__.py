"""A worker: `python -m discovery_tcpproxy.worker FD [STDERR RUN_DIR]`.

FD is its end of a socket pair with the daemon. It outlives the daemon if it is given its standard error, another
descriptor, and the directory in which the next daemon finds it.
"""

import gc
import os
import signal
import sys
from pathlib import Path

from discovery_tcpproxy.worker.control import Home, serve


def main() -> None:
    """Serve. Signals are the control plane's business: a supervisor may send SIGTERM to every process of a unit."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # what has come is read from the pipe
    os.umask(0o077)  # what it makes is the user's alone
    signals, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    descriptor, *rest = sys.argv[1:]
    home = Home(Path(rest[1]), int(rest[0]), signals) if rest else None
    gc.freeze()
    gc.disable()  # what is made for a connection has no cycle left when it ends
    serve(int(descriptor), home)


if __name__ == "__main__":
    main()
