"""A worker has no garbage collector: what a connection took is free when it ends."""

import gc
import socket
import threading
from contextlib import ExitStack
from typing import Any

from discovery.testing import free_port, within
from discovery_tcpproxy import wire
from discovery_tcpproxy.worker.stream import Connection
from discovery_tcpproxy.worker.worker import serve


def test_a_worker_leaves_no_reference_cycles(
    stack: ExitStack, backend: socket.socket, listener_settings: dict[str, Any]
) -> None:
    """It does not run in a worker, so that it cannot hold up anybody."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    serving = threading.Thread(target=serve, args=(theirs.detach(),))
    serving.start()
    frames = wire.Reader(ours)
    gc.collect()
    gc.disable()
    stack.callback(gc.enable)

    def ask(*descriptors: int, **message: Any) -> None:
        wire.send(ours, {"seq": 1, **message}, descriptors)
        assert frames.read()
        assert [frame.get("error") for frame, _ in frames.frames()] == [None]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        ask(listener.fileno(), do="listen", listeners={"web": {**listener_settings, "sockets": {"a": 0}}})
    common = {"host": "127.0.0.1", "weight": 1, "draining": False}
    ports = backend.getsockname()[1], free_port()
    ask(do="backends", services={"web": [{"id": str(port), "port": port, **common} for port in ports]})
    for number in range(60):
        with socket.create_connection(address, timeout=within(20)) as client, backend.accept()[0] as server:
            server.sendall(b"+")
            assert client.recv(1) == b"+"
            one, other = (client, server) if number % 2 else (server, client)
            if number % 3 == 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif number % 3 == 1:
                one.shutdown(socket.SHUT_WR)
                assert other.recv(1) == b""
    ask(do="stop", grace=20.0)
    serving.join(within(20))
    assert not serving.is_alive()
    # The last of them variables may still name.
    assert len([each for each in gc.get_objects() if isinstance(each, Connection)]) < 5
