"""The etcd registry: an etcd client on grpcio and protobuf alone. No other package of the core depends on etcd."""

import os

# gRPC writes its log to standard error in its own format. The exceptions have the same information.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.etcd.settings import EtcdSettings
from discovery.registry.etcd.watch import Timing

__all__ = ["EtcdRegistry", "EtcdSettings", "Timing"]
