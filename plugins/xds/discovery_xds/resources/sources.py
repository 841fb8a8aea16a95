"""The `ConfigSource` in resources that name other resources: the server from which a client gets these."""

from typing import Any

from envoy.config.core.v3 import config_source_pb2


def ads() -> Any:
    """Return the source which tells a client to ask for the named resource on the stream that it already has."""
    source = config_source_pb2.ConfigSource(resource_api_version=config_source_pb2.ApiVersion.V3)
    source.ads.SetInParent()
    return source
