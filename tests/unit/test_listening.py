"""Sockets that keep another socket from an address, as the kernel's table has them."""

import os
import socket

import pytest

from discovery.toolkit import tcp_sockets_listening_at


@pytest.mark.parametrize(
    ("held", "wanted", "options", "conflicts"),
    [
        ("127.0.0.1", "127.0.0.1", {}, True),
        ("127.0.0.1", "127.0.0.2", {}, False),
        ("127.0.0.1", "::", {}, True),
        ("127.0.0.1", "::", {"v6only": True}, False),
        ("::1", "::", {"v6only": True}, True),
        # gRPC and Java listen on IPv4 addresses by sockets of IPv6.
        ("::ffff:127.0.0.1", "127.0.0.1", {}, True),
        ("::ffff:127.0.0.1", "127.0.0.2", {}, False),
        ("::ffff:127.0.0.1", "::1", {}, False),
        ("::ffff:127.0.0.1", "0.0.0.0", {}, True),
        ("::ffff:127.0.0.1", "::", {"v6only": True}, False),
    ],
)
def test_a_socket_is_found_at_the_addresses_that_it_keeps_from_others(
    held: str, wanted: str, options: dict[str, bool], conflicts: bool
) -> None:
    family = socket.AF_INET6 if ":" in held else socket.AF_INET
    with socket.socket(family) as listening:
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((held, 0))
        listening.listen()
        found = tcp_sockets_listening_at(wanted, listening.getsockname()[1], **options)
        assert (str(os.fstat(listening.fileno()).st_ino) in found) is conflicts
