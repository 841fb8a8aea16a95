"""Names of resources. The name of a service has neither `:` nor `/`, so that no two resources have one name.

The endpoints of a service, Envoy's cluster and the listener of gRPC clients have the name of the service. Envoy's
listener at an address and its routes have the address as their name.
"""


def grpc_cluster(service: str) -> str:
    """Return the name of the cluster of a service for gRPC clients."""
    return f"grpc/{service}"
