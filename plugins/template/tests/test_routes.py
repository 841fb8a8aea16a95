"""nginx, httpd and Caddy choose the service that the routes say, leave draining backends out, and answer 503."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled
from template_driving import driven
from template_origins import ask, origin
from template_proxies import PROXIES, require

from discovery import Backend, State
from discovery.testing import free_port
from discovery_template.proxies.consumer import ProxyConsumer

SERVICES: dict[str, dict[str, Any]] = {
    "any": {},
    "everywhere": {"path_prefix": "/all"},
    "exact": {"hosts": "a.example.com"},
    "exact-path": {"hosts": "a.example.com", "path_prefix": ["/p", "/p/q"]},
    "suffix": {"hosts": "*.example.com"},
    "deeper": {"hosts": "*.b.example.com", "path_prefix": "/d"},
    "prefix": {"hosts": "www.*", "balance": "leastconn"},
    "empty": {"path_prefix": "/empty"},
}
EXPECTED = {
    ("other.org", "/"): "any",
    ("other.org", "/all"): "everywhere",
    ("other.org", "/all/x?y=/p"): "everywhere",
    ("other.org", "/allx"): "any",
    ("other.org", "/ALL"): "any",
    ("other.org", "/empty/x"): "503",
    ("a.example.com", "/"): "exact",
    ("A.Example.COM:80", "/x"): "exact",
    ("a.example.com", "/all"): "exact",
    ("a.example.com", "/p"): "exact-path",
    ("a.example.com", "/p/q/r%20s//t"): "exact-path",
    ("a.example.com", "/p/a%2fb"): "exact-path",
    ("other.org", "/a%2Fb"): "any",
    ("a.example.com", "/pq"): "exact",
    ("z.example.com", "/p"): "suffix",
    ("z.b.example.com", "/"): "suffix",
    ("z.b.example.com", "/d/x"): "deeper",
    ("y.z.b.example.com", "/d"): "deeper",
    ("www.org", "/"): "prefix",
    ("www.a.b", "/p"): "prefix",
    ("wwwx.org", "/"): "any",
    ("www.example.com", "/"): "suffix",
}


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_requests_go_where_the_routes_say(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        require(kind)
        ports = {name: stack.enter_context(origin(name)) for name in SERVICES if name != "empty"}
        drained = stack.enter_context(origin("drained"))
        backends = [Backend(name, "1", "127.0.0.1", each) for name, each in ports.items()]
        backends += [
            Backend("any", "2", "127.0.0.1", drained, 256, State.DRAINING),
            Backend("exact", "2", "127.0.0.1", drained, 0),
            Backend("empty", "1", "127.0.0.1", drained, 1, State.DRAINING),
        ]
        config = {"bind": f"127.0.0.1:{port}", "services": SERVICES}
        async with driven(kind, config, tmp_path) as driver:
            await driver.apply(*backends)
            answers = {
                (host, path): {await asyncio.to_thread(ask, port, host, path) for _ in range(2)}
                for host, path in EXPECTED
            }
    wanted = {(host, path): {name if name == "503" else f"{name} {path}"} for (host, path), name in EXPECTED.items()}
    assert answers == wanted
