"""The etcd registry, and the one place that knows etcd: a client of our own on grpcio and protobuf alone."""

import os

# Its log goes to standard error in its own format; what matters of it is in the errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.etcd.settings import EtcdSettings
from discovery.registry.etcd.watch import Timing

__all__ = ["EtcdRegistry", "EtcdSettings", "Timing"]
