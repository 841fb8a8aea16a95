"""Contracts, builders and helpers for the tests of plugins.

Public API. Imports without pytest; the contracts, `cannot_run` and `require_program` need pytest.
"""

from discovery.testing.builders import backend, snapshot
from discovery.testing.consumers.contract import ConsumerContract
from discovery.testing.follower import Follower, contents, following
from discovery.testing.providers.contract import ProviderContract
from discovery.testing.registry import RegistryContract
from discovery.testing.running import RecordedHistory, Running, running
from discovery.testing.support import cannot_run, eventually, eventually_sync, free_port, require_program, within

__all__ = [
    "ConsumerContract",
    "Follower",
    "ProviderContract",
    "RecordedHistory",
    "RegistryContract",
    "Running",
    "backend",
    "cannot_run",
    "contents",
    "eventually",
    "eventually_sync",
    "following",
    "free_port",
    "require_program",
    "running",
    "snapshot",
    "within",
]
