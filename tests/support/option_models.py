"""The options of the core and of the plugins: their models, and the types of their fields."""

from collections.abc import Iterator
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

MODELS: dict[str, type[BaseModel]] = {
    "consumers": ConsumerTable,
    "providers": ProviderTable,
    "check": CheckSettings,
    "haproxy": HAProxyConfig,
    "tcpproxy": TcpProxyConfig,
    "dns": DnsConfig,
    "xds": XdsConfig,
    "apache": ApacheConfig,
    "docker": DockerConfig,
    "template": TemplateConfig,
    "httpd": HttpdConfig,
    "caddy": CaddyConfig,
    "nginx": NginxConfig,
    "": FileSettings,
}


def fields_of(model: type[BaseModel], prefix: str, kind: type) -> Iterator[str]:
    """The options of a configuration whose types have metadata of this kind, tables within tables included."""
    for name, field in model.model_fields.items():
        found = list(metadata((field.annotation, *field.metadata)))
        if any(isinstance(each, kind) for each in found):
            yield f"{prefix}.{name}"
        for each in found:
            if isinstance(each, type) and issubclass(each, BaseModel) and each is not CheckSettings:
                yield from fields_of(each, f"{prefix}.{name}", kind)


def metadata(annotation: Any) -> Iterator[Any]:
    """An annotation with everything that it consists of."""
    if isinstance(annotation, tuple | list):
        for each in annotation:
            yield from metadata(each)
        return
    yield annotation
    yield from metadata(getattr(annotation, "__metadata__", ()))
    yield from metadata(getattr(annotation, "__args__", ()))


def tables_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a configuration's type, and the types of the tables within it."""
    yield model
    for field in model.model_fields.values():
        for each in metadata((field.annotation, *field.metadata)):
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from tables_of(each)
