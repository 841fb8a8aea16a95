"""Entry point of a worker process: `python -m discovery_tcpproxy.worker FD [STDERR RUN_DIR]`.

FD is the worker's end of a socket pair with the daemon. With STDERR and RUN_DIR the worker outlives the daemon: it logs
to the descriptor STDERR and listens in the directory RUN_DIR for the next daemon.
"""

import gc
import os
import signal
import sys
from pathlib import Path

from discovery_tcpproxy.worker.worker import OrphanOptions, serve


def main() -> None:
    """Run the worker. SIGINT and SIGHUP are ignored, since supervisors and terminals send them to whole groups."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the byte in the wake-up pipe is handled instead
    os.umask(0o077)  # sockets that the worker makes are accessible to this user alone
    signals, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    descriptor, *rest = sys.argv[1:]
    options = OrphanOptions(Path(rest[1]), int(rest[0]), signals) if rest else None
    gc.freeze()
    gc.disable()  # connections leave no reference cycles behind
    serve(int(descriptor), options)


if __name__ == "__main__":
    main()
