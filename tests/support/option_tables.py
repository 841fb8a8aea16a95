"""Where each kind of option is: the configuration's type, and the least table that has the option."""

from typing import Any

from pydantic import BaseModel

from discovery.daemon.settings import FileSettings
from discovery.hosting.tables import ConsumerTable, ProviderTable
from discovery.probes import CheckSettings
from discovery_apache.config import ApacheConfig
from discovery_dns.config import DnsConfig
from discovery_docker.config import DockerConfig
from discovery_haproxy.options.config import HAProxyConfig
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_template.options.template import TemplateConfig
from discovery_template.proxies.caddy import CaddyConfig
from discovery_template.proxies.httpd import HttpdConfig
from discovery_template.proxies.nginx import NginxConfig
from discovery_xds.config import XdsConfig

V = "<the value>"
WEB: dict[str, Any] = {"bind": "127.0.0.1:1"}
TLS: dict[str, Any] = {"bind": {"address": "127.0.0.1:1", "certificate": "/x"}}
FILES: dict[str, Any] = {"files": [{"template": "builtin:json", "file": "/x"}]}
EXTERNAL: dict[str, Any] = {"path": "/x", "systemd_unit": "haproxy"}
CHECKING: dict[str, type[BaseModel]] = {"httpd": HttpdConfig, "caddy": CaddyConfig}
PROXIES: dict[str, type[BaseModel]] = {**CHECKING, "nginx": NginxConfig}
"""Consumers with the `services` table of haproxy. Those of `CHECKING` take checks, and nginx takes none."""
NOT_TAKEN = {f"nginx.check.{name}" for name in ("interval", "rise", "fall")}
"""Options of the table that a consumer refuses with any value."""
PROXY_BINDS: dict[str, dict[str, Any]] = {
    "bind": {"bind": V},
    "bind.address": {"bind": {"address": V}},
    "services.bind": {"services": {"web": {"bind": V}}},
    "services.bind.address": {"services": {"web": {"bind": [{"address": V}]}}},
}
HAPROXY_TIMEOUTS = (
    "connect", "client", "server", "queue", "tunnel", "check", "http_request", "http_keep_alive", "client_fin",
    "server_fin")  # fmt: skip
TCPPROXY_TIMES = (
    "hold", "connect_timeout", "idle_timeout", "unacknowledged_timeout", "drain", "accept_proxy_timeout"
)  # fmt: skip

Option = tuple[type[BaseModel], dict[str, Any]]
"""A configuration's type, and the least table that has the option, with `V` in its place."""

DURATIONS: dict[str, Option] = {
    "consumers.quiet_period": (ConsumerTable, {"plugin": "x", "quiet_period": V}),
    "providers.ttl": (ProviderTable, {"plugin": "x", "ttl": V}),
    "check.interval": (CheckSettings, {"interval": V}),
    "check.timeout": (CheckSettings, {"timeout": V}),
    "haproxy.check.interval": (HAProxyConfig, {"services": {"web": {"check": {"interval": V}}}}),
    "haproxy.services.hsts.max_age": (HAProxyConfig, {"services": {"web": {**TLS, "hsts": {"max_age": V}}}}),
    "haproxy.services.cache.max_age": (HAProxyConfig, {"services": {"web": {"cache": {"max_age": V}}}}),
    "haproxy.services.cookie.max_age": (HAProxyConfig, {"services": {"web": {"cookie": {"max_age": V}}}}),
    "haproxy.services.hold": (HAProxyConfig, {"services": {"web": {"hold": V, "timeouts": {"client": "2h"}}}}),
    "haproxy.external.timeout": (HAProxyConfig, {"external": {**EXTERNAL, "timeout": V}}),
    **{f"haproxy.{name}": (HAProxyConfig, {name: V}) for name in ("hard_stop_after", "verify_interval")},
    **{f"haproxy.timeouts.{name}": (HAProxyConfig, {"timeouts": {name: V}}) for name in HAPROXY_TIMEOUTS},
    **{
        f"haproxy.services.timeouts.{name}": (HAProxyConfig, {"services": {"web": {"timeouts": {name: V}}}})
        for name in HAPROXY_TIMEOUTS
    },
    **{f"tcpproxy.listen.{name}": (TcpProxyConfig, {"listen": {"web": {**WEB, name: V}}}) for name in TCPPROXY_TIMES},
    **{f"dns.{name}": (DnsConfig, {name: V}) for name in ("ttl", "negative_ttl", "tcp_idle_timeout")},
    "xds.check.interval": (XdsConfig, {"services": {"web": {"check": {"interval": V}}}}),
    "tcpproxy.grace": (TcpProxyConfig, {"listen": {"web": WEB}, "grace": V}),
    **{
        f"apache.docker.status.{name}": (ApacheConfig, {"docker": {"status": {"page": "/s", name: V}}})
        for name in ("interval", "timeout", "weight_interval")
    },
    **{
        f"apache.httpd.status.{name}": (ApacheConfig, {"httpd": {"main": {"status": {name: V}}}})
        for name in ("interval", "timeout", "weight_interval")
    },
    "template.check_timeout": (TemplateConfig, {**FILES, "check_timeout": V}),
    "template.reload.timeout": (TemplateConfig, {**FILES, "reload": {"command": ["x"], "timeout": V}}),
    "template.prove.timeout": (TemplateConfig, {**FILES, "prove": {"command": ["x"], "timeout": V}}),
    "template.run.stop_timeout": (TemplateConfig, {**FILES, "run": {"command": ["x"], "stop_timeout": V}}),
    **{f"{name}.prove_timeout": (model, {"prove_timeout": V}) for name, model in PROXIES.items()},
    **{
        f"{name}.check.interval": (model, {"services": {"web": {"check": {"path": "/", "interval": V}}}})
        for name, model in CHECKING.items()
    },
}
ROWS: dict[str, Option] = {
    **{
        f"{name}.check.{option}": (model, {"services": {"web": {"check": {"path": "/", option: V}}}})
        for name, model in CHECKING.items()
        for option in ("rise", "fall")
    },
    **{f"check.{name}": (CheckSettings, {name: V}) for name in ("rise", "fall")},
    **{
        f"haproxy.check.{name}": (HAProxyConfig, {"services": {"web": {"check": {name: V}}}})
        for name in ("rise", "fall")
    },
    **{f"xds.check.{name}": (XdsConfig, {"services": {"web": {"check": {name: V}}}}) for name in ("rise", "fall")},
    **{
        f"apache.docker.status.{name}": (ApacheConfig, {"docker": {"status": {"page": "/s", name: V}}})
        for name in ("rise", "fall")
    },
    **{
        f"apache.httpd.status.{name}": (ApacheConfig, {"httpd": {"main": {"status": {name: V}}}})
        for name in ("rise", "fall")
    },
}
"""Outcomes in a row."""
WEIGHTS: dict[str, Option] = {
    "apache.weight": (ApacheConfig, {"weight": V}),
    "docker.weight": (DockerConfig, {"weight": V}),
    "apache.httpd.weight": (ApacheConfig, {"httpd": {"main": {"weight": V}}}),
}
BINDS: dict[str, Option] = {
    **{f"{name}.{option}": (model, table) for name, model in PROXIES.items() for option, table in PROXY_BINDS.items()},
    "admin": (FileSettings, {"admin": V}),
    "haproxy.bind": (HAProxyConfig, {"bind": V}),
    "haproxy.bind.address": (HAProxyConfig, {"bind": {"address": V}}),
    "haproxy.services.bind": (HAProxyConfig, {"services": {"web": {"bind": V}}}),
    "haproxy.services.bind.address": (HAProxyConfig, {"services": {"web": {"bind": [{"address": V}]}}}),
    "haproxy.stats": (HAProxyConfig, {"stats": V}),
    "haproxy.stats.address": (HAProxyConfig, {"stats": {"address": V}}),
    "haproxy.nameservers": (HAProxyConfig, {"nameservers": [V]}),
    "xds.listen": (XdsConfig, {"listen": V}),
    "xds.bind": (XdsConfig, {"bind": V}),
    "xds.bind.address": (XdsConfig, {"bind": {"address": V}}),
    "xds.services.bind": (XdsConfig, {"services": {"web": {"bind": V}}}),
    "xds.services.bind.address": (XdsConfig, {"services": {"web": {"bind": [{"address": V}]}}}),
    "tcpproxy.listen": (TcpProxyConfig, {"listen": {"web": V}}),
    "dns.listen": (DnsConfig, {"listen": V}),
    "tcpproxy.services.bind": (TcpProxyConfig, {"services": {"web": {"bind": V}}}),
    "tcpproxy.listen.bind": (TcpProxyConfig, {"listen": {"web": {"bind": V}}}),
}
NO_SOCKETS = {"admin", "xds.listen"}
"""Options that are addresses of TCP alone; so are those of `PROXIES` and of the plugin dns."""
WITH_SOCKETS = {name for name in BINDS.keys() - NO_SOCKETS if name.partition(".")[0] not in (*PROXIES, "dns")}
