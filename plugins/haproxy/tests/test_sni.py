"""Services in tcp mode that share an address: the name in the client's TLS hello (SNI) decides."""

import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
import trustme
from haproxy_web import Parse, with_maps_in
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from route_model import takes_host

from discovery import Backend, Snapshot
from discovery.routing import routes
from discovery.testing import backend, eventually_sync, free_port, within
from discovery_haproxy.options.config import HAProxyConfig, address_claims
from discovery_haproxy.rendering.render import Runtime, render

SHARED: dict[str, Any] = {"mode": "tcp", "check": False}
_INSPECTED_SECONDS = 5.0
"""Time in which HAProxy waits for a TLS hello."""


def hello(name: bytes | None) -> bytes:
    """Return a TLS 1.2 ClientHello with this server name, which may be invalid as a name of DNS."""

    def sized(data: bytes, size: int) -> bytes:
        return len(data).to_bytes(size, "big") + data

    extension = b"" if name is None else b"\0\0" + sized(sized(b"\0" + sized(name, 2), 2), 2)
    body = b"\x03\x03" + bytes(32) + b"\0" + sized(b"\x13\x01", 2) + sized(b"\0", 1) + sized(extension, 2)
    return b"\x16\x03\x01" + sized(b"\x01" + sized(body, 3), 2)


@contextmanager
def named_server(name: str, *, greets: bool = False) -> Iterator[int]:
    """Serve the name on a free port, as plain text, to each client that sends a byte.

    With `greets` each client gets the name at once.
    """

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                if not greets:
                    self.request.recv(1)
                self.request.sendall(name.encode())

    class Server(ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(
    haproxy: Path, directory: Path, services: dict[str, dict[str, Any]], backends: Sequence[Backend]
) -> Iterator[None]:
    """Run HAProxy for these services until the block ends."""
    config = HAProxyConfig.model_validate({"services": services})
    result = render(config, Snapshot.of(1, backends), Runtime(), {})
    path = directory / "haproxy.cfg"
    path.write_text(with_maps_in(directory, result))
    with subprocess.Popen([haproxy, "-db", "-f", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:

            def listens() -> bool:
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                with socket.socket() as client:
                    return client.connect_ex(_pair(result.binds[0])) == 0

            eventually_sync(listens, "HAProxy to listen")
            yield
        finally:
            process.kill()


def answer(bind: str, data: bytes, *, step: int = 1 << 16) -> str | None:
    """Send data in pieces of `step` bytes, and return the answer; None if the connection is closed without one."""
    with socket.create_connection(_pair(bind), timeout=within(_INSPECTED_SECONDS + 10)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for start in range(0, len(data), step):
                client.sendall(data[start : start + step])
            return client.recv(100).decode() or None
        except ConnectionError:
            return None


def _pair(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host, int(port)


@pytest.fixture
def bind() -> str:
    """Return a free address for HAProxy."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def servers() -> Iterator[tuple[Backend, ...]]:
    """Return backends of the services `shop`, `wild` and `rest`, which answer with the service's name."""
    with ExitStack() as stack:
        names = ("shop", "wild", "rest")
        yield tuple(backend(name, port=stack.enter_context(named_server(name))) for name in names)


def shared(bind: str) -> dict[str, dict[str, Any]]:
    """Return services by name, without a default."""
    return {
        "shop": {**SHARED, "bind": bind, "hosts": ["shop.example", "shop.*"]},
        "wild": {**SHARED, "bind": bind, "hosts": "*.example"},
    }


def test_the_name_of_the_hello_decides(haproxy: Path, tmp_path: Path, bind: str, servers: tuple[Backend, ...]) -> None:
    with serving(haproxy, tmp_path, shared(bind), servers):
        assert answer(bind, hello(b"shop.example")) == "shop"
        assert answer(bind, hello(b"SHOP.example.")) == "shop"
        assert answer(bind, hello(b"a.b.example")) == "wild"
        assert answer(bind, hello(b"shop.internal")) == "shop"
        for other in (b"example", b"other.invalid", b"shop.example/x", b"\0\xff", b"x" * 300, b"", None):
            assert answer(bind, hello(other)) is None
        assert answer(bind, b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n") is None
        assert answer(bind, hello(b"shop.example"), step=1) == "shop"


def test_a_service_without_hosts_takes_the_rest(
    haproxy: Path, tmp_path: Path, bind: str, servers: tuple[Backend, ...]
) -> None:
    with serving(haproxy, tmp_path, {**shared(bind), "rest": {**SHARED, "bind": bind}}, servers):
        assert answer(bind, hello(b"shop.example")) == "shop"
        assert answer(bind, hello(b"other.invalid")) == "rest"
        assert answer(bind, hello(None)) == "rest"
        assert answer(bind, b"no TLS at all") == "rest"


def test_a_client_that_waits_for_the_server_comes_to_the_default_later(
    haproxy: Path, tmp_path: Path, bind: str, servers: tuple[Backend, ...]
) -> None:
    with named_server("greeting", greets=True) as port:
        services = {**shared(bind), "mail": {**SHARED, "bind": bind}}
        found = [*servers, backend("mail", port=port)]
        with serving(haproxy, tmp_path, services, found), ThreadPoolExecutor(2) as clients:
            # Side by side, since each waits for HAProxy's limit.
            answers = clients.map(partial(answer, bind), (b"", hello(b"shop.example")[:20]))
            assert list(answers) == ["greeting"] * 2


def test_haproxy_has_no_warning(parse: Parse, bind: str) -> None:
    config = HAProxyConfig.model_validate({"services": {**shared(bind), "rest": {**SHARED, "bind": bind}}})
    result = render(config, Snapshot.of(1, []), Runtime(), {})
    assert parse(result) == ""
    assert f"wild  tcp {bind} *.example -> 0 backends" in result.mappings


def test_a_backend_ends_tls_itself(haproxy: Path, tmp_path: Path, bind: str) -> None:
    authority, backends = trustme.CA(), []
    with ExitStack() as stack:
        for name in ("shop", "wild"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(f"{name}.example").configure_cert(context)
            backends.append(backend(name, port=stack.enter_context(_tls_server(context, name))))
        stack.enter_context(serving(haproxy, tmp_path, shared(bind), backends))
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        for name in ("shop", "wild"):
            with (
                socket.create_connection(_pair(bind), timeout=within(10)) as client,
                trusting.wrap_socket(client, server_hostname=f"{name}.example") as secure,
            ):
                assert secure.recv(10).decode() == name


def test_haproxy_ends_tls_where_the_bind_has_a_certificate(
    haproxy: Path, tmp_path: Path, bind: str, servers: tuple[Backend, ...]
) -> None:
    authority = trustme.CA()
    authority.issue_cert("shop.example", "a.example").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "a.pem")
    )
    table = {"address": bind, "certificate": str(tmp_path / "a.pem")}
    services = {name: {**service, "bind": table} for name, service in shared(bind).items()}
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(haproxy, tmp_path, services, servers):
        for host, name in (("shop.example", b"shop"), ("a.example", b"wild")):
            with (
                socket.create_connection(_pair(bind), timeout=within(10)) as client,
                trusting.wrap_socket(client, server_hostname=host) as secure,
            ):
                secure.sendall(b"x")
                assert secure.recv(10) == name


@contextmanager
def _tls_server(context: ssl.SSLContext, name: str) -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                        secure.sendall(name.encode())

        thread = Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


labels = st.sampled_from(["a", "b", "ab", "a-b"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(names, names.map("*.{}".format), names.map("{}.*".format), st.just("*"))
sent = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "a.", "b.a.", "."]),
    st.one_of(names, names, names.map(str.upper), patterns),
    st.sampled_from(["", "", "", ".", ".a", ".b.ab", "..a"]),
)


# Each example is one HAProxy and dozens of connections. Shrinking would start HAProxy hundreds of times.
@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(taken=st.lists(patterns, min_size=1, max_size=10, unique=True), sent=st.lists(sent, min_size=30, max_size=40))
def test_the_precedence_is_that_of_http(
    haproxy: Path, tmp_path_factory: pytest.TempPathFactory, taken: list[str], sent: list[str]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    services = {f"s{number}": {**SHARED, "bind": bind, "hosts": host} for number, host in enumerate(taken)}
    ordered = routes(address_claims(HAProxyConfig.model_validate({"services": services})))
    with ExitStack() as stack:
        backends = [backend(name, port=stack.enter_context(named_server(name))) for name in services]
        stack.enter_context(serving(haproxy, tmp_path_factory.mktemp("sni"), services, backends))
        for name in sent:
            canonical = name.lower().rstrip(".")
            expected = next((route.service for route in ordered if takes_host(route, canonical)), None)
            assert answer(bind, hello(name.encode())) == expected, name
