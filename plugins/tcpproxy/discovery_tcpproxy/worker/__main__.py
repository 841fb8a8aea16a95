"""A worker: `python -m discovery_tcpproxy.worker FD`, FD being its end of a socket pair with the control plane."""

import gc
import signal
import sys

from discovery_tcpproxy.worker.control import serve


def main() -> None:
    """Serve. Signals are the control plane's business: a supervisor may send SIGTERM to every process of a unit."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()
    gc.disable()  # what is made for a connection has no cycle left when it ends
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
