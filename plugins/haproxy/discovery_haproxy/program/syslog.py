"""The syslog server that HAProxy writes its access log to."""

import errno
import socket

_REASONS = {
    errno.ENOENT: "there is no such socket",
    errno.ECONNREFUSED: "no program reads there",
    errno.EPROTOTYPE: "the socket is not one for datagrams, as a syslog server's is",
}
"""Errors of a connection with which HAProxy's lines are lost."""


def missing_receiver(address: str) -> str:
    """Return why nobody receives lines at the address, which HAProxy does not count; empty if that is not known.

    Only a Unix socket tells whether somebody receives.
    """
    if not address.startswith("/"):
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        try:
            client.connect(address)
        except OSError as error:
            return _REASONS.get(error.errno or 0, "")
    return ""
