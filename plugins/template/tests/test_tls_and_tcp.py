"""TLS in front of the backends, and nginx for TCP."""

import asyncio
import socket
import ssl
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import trustme
from sampling import sampled
from template_driving import driven
from template_origins import origin
from template_proxies import PROXIES, require

from discovery import Backend
from discovery.testing import eventually, free_port, within
from discovery_template.proxies.consumer import ProxyConsumer
from discovery_template.proxies.nginx import NginxConsumer

AUTHORITY = trustme.CA()


def write_certificate(path: Path, name: str) -> None:
    """Write a certificate with its key into one file."""
    issued = AUTHORITY.issue_cert(name)
    path.write_bytes(issued.private_key_pem.bytes() + b"".join(each.bytes() for each in issued.cert_chain_pems))


def over_tls(port: int, name: str) -> str:
    """Return the body of the answer over TLS, with a certificate for the name; the error if there is none."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    connection = HTTPSConnection("localhost", port, timeout=within(10), context=context)
    try:
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), within(10)), server_hostname=name
        )
        connection.request("GET", "/", headers={"Host": name, "Connection": "close"})
        return connection.getresponse().read().decode()
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_clients_speak_tls_and_a_new_certificate_is_read(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    port = free_port()
    file = tmp_path / "site.pem"
    write_certificate(file, "a.example.com")
    config = {"bind": {"address": f"127.0.0.1:{port}", "certificate": str(file)}}
    with origin("web") as web:
        backend = Backend("web", "1", "127.0.0.1", web)
        async with driven(kind, config, tmp_path) as driver:
            await driver.apply(backend)
            assert await asyncio.to_thread(over_tls, port, "a.example.com") == "web /"
            assert await asyncio.to_thread(over_tls, port, "b.example.com") == "SSLCertVerificationError"
            write_certificate(file, "b.example.com")
            await eventually(lambda: driver.applies_requested > 0, "the new certificate to be noticed")
            await driver.apply(backend)
            await eventually(lambda: over_tls(port, "b.example.com") == "web /", "the new certificate to be served")


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_a_certificate_that_is_missing_is_found_before_anything_runs(
    kind: type[ProxyConsumer[Any]], tmp_path: Path
) -> None:
    require(kind)
    config = {"bind": {"address": f"127.0.0.1:{free_port()}", "certificate": str(tmp_path / "missing.pem")}}
    async with driven(kind, config, tmp_path) as driver:
        (fault,) = (await driver.consumer.validate(driver.update())).faults
    assert "refuses the configuration" in fault
    assert "missing.pem" in fault


def greeted(port: int, server_name: str | None = None) -> str:
    """Return what a TCP service says: its name; with a server name the beginning of a TLS handshake is sent."""
    with socket.create_connection(("127.0.0.1", port), within(10)) as connection:
        connection.settimeout(within(10))
        if server_name is not None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            handshake = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=server_name)
            with pytest.raises(ssl.SSLWantReadError):
                handshake.do_handshake()
            connection.sendall(outgoing.read())
        try:
            return connection.recv(100).decode()
        except ConnectionError:
            return ""


async def test_nginx_carries_tcp_also_by_the_name_in_the_handshake(tmp_path: Path) -> None:
    require(NginxConsumer)
    plain, named = free_port(), free_port()
    servers = {}
    for name in ("redis", "exact", "suffix"):

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
            writer.write(name.encode())
            await writer.drain()
            writer.close()

        servers[name] = await asyncio.start_server(greet, "127.0.0.1", 0)
    tcp = {"mode": "tcp", "bind": f"127.0.0.1:{named}"}
    services = {
        "redis": {"mode": "tcp", "bind": f"127.0.0.1:{plain}", "balance": "source"},
        "exact": {**tcp, "hosts": "a.example.com"},
        "suffix": {**tcp, "hosts": ["*.example.com", ".".join(["a" * 60] * 4)]},
    }
    backends = [Backend(name, "1", "127.0.0.1", each.sockets[0].getsockname()[1]) for name, each in servers.items()]
    async with driven(NginxConsumer, {"services": services}, tmp_path) as driver:
        await driver.apply(*backends)
        assert await asyncio.to_thread(greeted, plain) == "redis"
        assert await asyncio.to_thread(greeted, named, "a.example.com") == "exact"
        assert await asyncio.to_thread(greeted, named, "b.example.com") == "suffix"
        assert await asyncio.to_thread(greeted, named, "other.org") == ""
        await driver.apply(*backends[1:])
        await eventually(lambda: greeted(plain) == "", "the service without backends to close connections")
    for server in servers.values():
        server.close()
