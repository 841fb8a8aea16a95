"""nginx, httpd and Caddy listen at IPv4 and IPv6 addresses, and ask backends at both, also by host names."""

import asyncio
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled
from template_driving import driven
from template_origins import origin, origin_at
from template_proxies import PROXIES, require

from discovery import Backend
from discovery.testing import free_port, within
from discovery_template.proxies.consumer import ProxyConsumer


def asked(address: str, port: int, host: str) -> str:
    """Return the name of the origin that answers, or the status."""
    connection = HTTPConnection(address, port, timeout=within(10))
    try:
        connection.request("GET", "/", headers={"Host": host, "Connection": "close"})
        answer = connection.getresponse()
        return answer.read().decode().split()[0] if answer.status == 200 else str(answer.status)
    finally:
        connection.close()


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_addresses_of_both_families_and_host_names(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    port = free_port()
    with origin("four") as four, origin_at("::1", "six") as six:
        backends = [
            Backend("four", "1", "127.0.0.1", four),
            Backend("six", "1", "::1", six),
            Backend("named", "1", "db.example.com", six),
            Backend("unknown", "1", "gone.example.com", four),
        ]
        async with driven(kind, {"bind": [f"127.0.0.1:{port}", f"[::1]:{port}"]}, tmp_path) as driver:
            driver.addresses = {("db.example.com", six): ("::1", "127.0.0.1")}
            await driver.apply(*backends)
            await driver.apply(*backends, Backend("Six", "1", "127.0.0.1", four))
            problems = (await driver.consumer.health()).problems
            assert problems == {"service six": "it has no route: its host name is that of 'Six'"}
            assert await asyncio.to_thread(asked, "127.0.0.1", port, "six") == "four"
            await driver.apply(*backends)
            assert (await driver.consumer.health()).state == "ok"
            for address in ("127.0.0.1", "::1"):
                found = {each.service: await asyncio.to_thread(asked, address, port, each.service) for each in backends}
                assert found == {"four": "four", "six": "six", "named": "six", "unknown": "503"}


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.file_name)
async def test_every_address_that_is_taken_is_declared(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    async with driven(kind, {"bind": "[::]:8080"}, tmp_path) as driver:
        listens = (await driver.consumer.validate(driver.update())).listens
    # httpd takes IPv4 by the same socket, as Debian builds it.
    assert listens == (("[::]:8080", "0.0.0.0:8080") if kind.file_name == "httpd.conf" else ("[::]:8080",))
