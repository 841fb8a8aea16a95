"""Clients of a worker that are admitted or refused: networks, limits, and PROXY protocol headers."""

import socket

import pytest

from discovery.testing import eventually_sync, within
from discovery_tcpproxy.worker import proxyproto

from .driven_worker import Meet, Worker, is_refused
from .sockets import is_reset


def test_limits_and_network_lists_apply_first(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen(max_connections=3, max_connections_per_client=2)
    worker.serve(backend)
    pairs = [meet() for _ in range(2)]
    assert is_refused(worker)
    for sock in pairs.pop():
        sock.close()
    eventually_sync(lambda: worker.report()["open"] == 1)
    pairs.append(meet())
    worker.configure(max_connections_per_client=3)
    pairs.append(meet())
    assert is_refused(worker)
    worker.configure(deny=["127.0.0.0/8"])
    assert is_refused(worker)
    worker.configure(allow=["10.0.0.0/8"])
    assert is_refused(worker)
    worker.configure(allow=["127.0.0.1/32"])
    pairs.append(meet())
    assert worker.report()["rejected"] == {"limit": 2, "denied": 2}


def test_a_later_limit_counts_open_connections(meet: Meet, worker: Worker, backend: socket.socket) -> None:
    worker.listen()
    worker.serve(backend)
    pairs = [meet() for _ in range(3)]
    worker.configure(max_connections=3)
    assert is_refused(worker)
    for sock in pairs.pop():
        sock.close()
    eventually_sync(lambda: worker.report()["open"] == 2)
    pairs.append(meet())
    worker.configure()
    pairs.append(meet())
    worker.configure(max_connections_per_client=4)
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"limit": 2}


def test_a_worker_reads_the_header_first_and_passes_on_the_data_after_the_header(
    worker: Worker, backend: socket.socket
) -> None:
    worker.listen(
        accept_proxy=["127.0.0.0/8"], accept_proxy_timeout=20.0, send_proxy="v2", max_connections_per_client=2
    )
    worker.serve(backend)
    client = worker.connect()
    header = proxyproto.write("v1", ("192.0.2.7", 1234), ("192.0.2.8", 80))
    for byte in header[:-1]:
        client.sendall(bytes([byte]))
    client.sendall(header[-1:] + b"and the rest")
    client.shutdown(socket.SHUT_WR)
    with backend.accept()[0] as server:
        got = b"".join(iter(lambda: server.recv(1000), b""))
        header = proxyproto.parse(got)
        assert header is not None
        assert header.source == ("192.0.2.7", 1234)
        assert got[header.size :] == b"and the rest"
        assert worker.ask("report", connections=True)["connections"][0]["client"] == ["192.0.2.7", 1234]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3", b""])
def test_a_client_without_a_header_is_not_served(worker: Worker, backend: socket.socket, sent: bytes) -> None:
    worker.listen(accept_proxy=["127.0.0.0/8"], accept_proxy_timeout=0.3)
    worker.serve(backend)
    client = worker.connect()
    client.sendall(sent)
    assert is_reset(client)
    assert worker.report()["rejected"] == {"header": 1}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("trusted", [["10.0.0.0/8", "::/0"], ["unix"]], ids=["elsewhere", "local"])
def test_a_header_from_an_untrusted_sender_is_data(
    worker: Worker, backend: socket.socket, version: str, trusted: list[str]
) -> None:
    """Point 23. `allow` and the limit count the client's own address, and the header is data as any other."""
    forged = proxyproto.write(version, ("10.1.2.3", 1234), ("10.1.2.4", 80))
    worker.listen(accept_proxy=trusted, max_connections_per_client=1)
    worker.serve(backend)
    client = worker.connect()
    client.sendall(forged)
    with backend.accept()[0] as server:
        server.settimeout(within(20))
        assert server.recv(1000) == forged
        assert is_refused(worker)  # whatever header it would send
        told = worker.ask("report", connections=True)["connections"]
        assert [each["client"] for each in told] == [list(client.getsockname())]
    client.close()
    worker.configure(accept_proxy=trusted, allow=["10.0.0.0/8"])
    assert is_refused(worker)
    assert worker.report()["rejected"] == {"limit": 1, "denied": 1}


def test_a_header_from_a_trusted_sender_names_the_client(worker: Worker, backend: socket.socket) -> None:
    """Point 23. The client that it names is the one that `allow` and the limit are for, and not the sender."""
    worker.listen(accept_proxy=["127.0.0.0/8"], allow=["192.0.2.0/24"], max_connections_per_client=1)
    worker.serve(backend)

    def come(address: str) -> socket.socket:
        client: socket.socket = worker.connect()
        client.sendall(proxyproto.write("v1", (address, 1234), ("192.0.2.8", 80)) + b"hello")
        return client

    clients = [come("192.0.2.1"), come("192.0.2.2")]
    for _ in clients:
        server = backend.accept()[0]
        with server:
            server.settimeout(within(20))
            assert server.recv(10) == b"hello"
            assert is_reset(come("198.51.100.1"))
    worker.configure(accept_proxy=[])
    assert worker.report()["rejected"] == {"denied": 2}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_send_proxy_sends_the_header_first(worker: Worker, backend: socket.socket, version: str) -> None:
    worker.listen(send_proxy=version)
    worker.serve(backend)
    client = worker.connect()
    header = proxyproto.write(version, client.getsockname(), client.getpeername())
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    with backend.accept()[0] as server:
        got = b"".join(iter(lambda: server.recv(1000), b""))
    assert got == header + b"hello"
