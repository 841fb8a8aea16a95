"""nginx and Caddy choose backends by a header, a parameter or the path, and at random where there is none."""

import asyncio
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled
from template_driving import driven
from template_origins import origin
from template_proxies import require

from discovery import Backend
from discovery.testing import free_port, within
from discovery_template.proxies.caddy import PATH_HEADER, CaddyConsumer
from discovery_template.proxies.consumer import ProxyConsumer
from discovery_template.proxies.nginx import NginxConsumer

SERVICES = {
    "header": "hdr(X-User)",
    "parameter": "url_param user",
    "target": "uri whole",
    "path": "uri",
    "random": "random",
}
REQUESTS = 24
"""Requests that two backends share: by chance all reach one of them in a run of millions."""


def asked(port: int, service: str, path: str, headers: Mapping[str, str]) -> str:
    """Return the name of the backend that answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=within(10))
    try:
        connection.request("GET", path, headers={"Host": service, "Connection": "close", **headers})
        answered, *told = connection.getresponse().read().decode().split()
        assert PATH_HEADER not in told
        return answered
    finally:
        connection.close()


@pytest.mark.parametrize("kind", sampled([NginxConsumer, CaddyConsumer]), ids=lambda kind: kind.file_name)
async def test_requests_with_one_key_reach_one_backend(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    port = free_port()
    services = {name: {"bind": f"127.0.0.1:{port}", "hosts": name, "balance": how} for name, how in SERVICES.items()}

    async def reached(service: str, request: Callable[[int], tuple[str, dict[str, str]]]) -> set[str]:
        def ask_all() -> set[str]:
            return {asked(port, service, *request(number)) for number in range(REQUESTS)}

        return await asyncio.to_thread(ask_all)

    with origin("one") as one, origin("two") as two:
        backends = [
            Backend(name, key, "127.0.0.1", at) for name in services for key, at in (("one", one), ("two", two))
        ]
        async with driven(kind, {"services": services}, tmp_path) as driver:
            await driver.apply(*backends)
            keyed: Mapping[str, Callable[[object], tuple[str, dict[str, str]]]] = {
                "header": lambda key: ("/", {"X-User": f"u{key}"}),
                "parameter": lambda key: (f"/?user=u{key}", {}),
                "target": lambda key: (f"/?{key}", {}),
                "path": lambda key: (f"/{key}", {}),
            }
            for service, request in keyed.items():
                same = request("same")
                assert len(await reached(service, lambda _, same=same: same)) == 1
                assert await reached(service, request) == {"one", "two"}
            # The query is no part of a path, and no client chooses by Caddy's own header.
            own = PATH_HEADER if kind is CaddyConsumer else "Other"
            assert len(await reached("path", lambda number: (f"/same?{number}", {own: f"{number}"}))) == 1
            for service in ("header", "parameter", "random"):  # without a key
                assert (service, await reached(service, lambda _: ("/", {}))) == (service, {"one", "two"})
