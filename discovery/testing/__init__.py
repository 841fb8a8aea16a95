"""What plugin authors test with: contracts, builders and helpers. Imports without pytest; the contracts need it."""

from discovery.testing.builders import backend, snapshot
from discovery.testing.support import eventually, eventually_sync, free_port, require_program

__all__ = [
    "backend",
    "eventually",
    "eventually_sync",
    "free_port",
    "require_program",
    "snapshot",
]
