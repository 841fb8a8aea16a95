"""TLS of the real Envoy: its listeners, its connections to backends, and certificates that are replaced."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from xds_authority import Authority
from xds_driving import driving
from xds_envoy import Envoy, envoy, web_origins

from discovery.testing import backend, eventually, within
from discovery_xds.limits import Limits

pytestmark = pytest.mark.swap


class Client:
    """A connection of HTTP/1.1 over TLS, which is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connected(cls, port: int, context: ssl.SSLContext, **options: Any) -> "Client":
        async with asyncio.timeout(within(10)):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, **options))

    @property
    def serial(self) -> str:
        """The serial number of the server's certificate."""
        return str(self._writer.get_extra_info("peercert")["serialNumber"])

    async def status(self) -> int:
        """The status of an answer."""
        async with asyncio.timeout(within(10)):
            self._writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length"))
            await self._reader.readexactly(length)
            return int(head.split()[1])

    def close(self) -> None:
        self._writer.close()


async def status(port: int, context: ssl.SSLContext, **options: Any) -> int:
    """The status of an answer on a connection of its own; 0 without one."""
    try:
        client = await Client.connected(port, context, **options)
    except OSError:
        return 0
    try:
        return await client.status()
    except (OSError, EOFError):
        return 0
    finally:
        client.close()


async def answered(proxy: Envoy, wanted: int, context: ssl.SSLContext, **options: Any) -> None:
    """Wait until requests over TLS get that status."""

    async def right() -> bool:
        return await status(proxy.port, context, **options) == wanted

    await eventually(right, f"the answer is {wanted}", timeout=30)


@pytest.mark.parametrize("sotw", [False, True], ids=["delta", "sotw"])
async def test_clients_and_backends_are_verified_and_a_new_certificate_costs_no_connection(
    sotw: bool, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "stranger")
    for name in ("front", "back", "own", "client"):
        authority.pem(name)
    stranger.pem("client")
    origin_context = authority.server_context("back", mutual=True)
    async with web_origins("a", tls=origin_context) as (a,), envoy(tmp_path) as proxy:
        bind = {
            "address": proxy.bind,
            "certificate": [str(authority.file("front", "pem")), str(authority.pem("other", "other.example"))],
            "client_ca": str(authority.ca_file),
        }
        tls = {"ca": str(authority.ca_file), "name": "localhost", "certificate": str(authority.file("own", "pem"))}
        services = {"web": {"bind": bind, "backend_tls": tls, "check": {"interval": "100ms"}}}
        async with driving(services=services) as driven:
            await driven.apply(backend(port=a.port))
            await proxy.start(driven.address, sotw=sotw)
            trusted = authority.client_context("client")
            await answered(proxy, 200, trusted, server_hostname="localhost")
            assert await status(proxy.port, authority.client_context(), server_hostname="localhost") == 0
            unknown = stranger.client_context("client")
            unknown.load_verify_locations(authority.ca_file)
            assert await status(proxy.port, unknown, server_hostname="localhost") == 0
            assert await status(proxy.port, trusted, server_hostname="other.example") == 200
            kept = await Client.connected(proxy.port, trusted, server_hostname="localhost")
            first = kept.serial
            authority.pem("front")

            async def renewed() -> bool:
                client = await Client.connected(proxy.port, trusted, server_hostname="localhost")
                client.close()
                return client.serial != first

            await eventually(renewed, "new connections have the new certificate", timeout=30)
            assert await kept.status() == 200
            kept.close()
            assert (await driven.consumer.health()).state == "ok"


async def test_a_backend_with_another_name_in_its_certificate_is_not_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.pem("back", "other.internal")
    async with web_origins("a", tls=authority.server_context("back")) as (a,), envoy(tmp_path) as proxy:
        wrong = {"ca": str(authority.ca_file), "name": "web.internal"}
        services: dict[str, Any] = {
            "web": {"hosts": "web", "backend_tls": wrong, "check": False},
            "other": {"hosts": "other", "service": "web", "backend_tls": {**wrong, "name": "other.internal"}},
        }
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(backend(port=a.port))
            await proxy.start(driven.address)
            await proxy.answers("a", host="other")
            assert (await proxy.get(host="web"))[0] == 503


@pytest.mark.parametrize("sotw", [False, True], ids=["delta", "sotw"])
async def test_tls_comes_and_goes_with_the_configuration_and_nothing_is_rejected(sotw: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for name in ("front", "back"):
        authority.pem(name)
    secret = authority.server_context("back")
    async with web_origins("plain") as (plain,), web_origins("tls", tls=secret) as (tls,), envoy(tmp_path) as proxy:
        both: dict[str, Any] = {"bind": proxy.bind, "check": False}
        front = {"address": proxy.bind, "certificate": str(authority.file("front", "pem"))}
        secured = {**both, "bind": front, "backend_tls": {"ca": str(authority.ca_file), "name": "localhost"}}
        async with driving(services={"web": both}) as driven:
            await driven.apply(backend(port=plain.port))
            await proxy.start(driven.address, sotw=sotw)
            await proxy.answers("plain")
            for options, port in ((secured, tls.port), (both, plain.port), (secured, tls.port)):
                config = type(driven.consumer).Config.model_validate({**driven.options, "services": {"web": options}})
                assert await driven.consumer.reconfigure(config)  # type: ignore[arg-type]
                await driven.apply(backend(port=port))
                if options is both:
                    await proxy.answers("plain")
                else:
                    await answered(proxy, 200, authority.client_context(), server_hostname="localhost")
            assert (driven.figure("nacks"), (await driven.consumer.health()).state) == (0, "ok")


async def test_a_certificate_that_is_not_there_hurts_its_bind_alone_until_it_is(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with web_origins("a") as (a,), envoy(tmp_path) as proxy, envoy(tmp_path) as other:
        path = authority.file("late", "pem")
        services = {
            "web": {"bind": {"address": proxy.bind, "certificate": str(path)}},
            "api": {"service": "web", "bind": other.bind},
        }
        async with driving(Limits(retry=0.2), services=services) as driven:
            await driven.apply(backend(port=a.port))
            await proxy.start(driven.address)
            await other.answers("a")

            async def told() -> bool:
                problems = (await driven.consumer.health()).problems
                return list(problems) == [f"sds certificate:{path}"]

            await eventually(told, "the file is told", timeout=30)
            authority.pem("late")
            await answered(proxy, 200, authority.client_context(), server_hostname="localhost")

            async def well() -> bool:
                return (await driven.consumer.health()).state == "ok"

            await eventually(well, "no problem is left", timeout=30)
