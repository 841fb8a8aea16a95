"""The source of resources that other resources name."""

from typing import Any

from envoy.config.core.v3 import config_source_pb2


def ads() -> Any:
    """Return the source of what is sent on the stream that names the resource."""
    source = config_source_pb2.ConfigSource(resource_api_version=config_source_pb2.ApiVersion.V3)
    source.ads.SetInParent()
    return source
