"""The state directory, for files that outlive a reboot."""

import hashlib
import os
from pathlib import Path

from discovery.system.rundir import base_run_dir, user_state_dir

_HASH_CHARACTERS = 16
"""Hexadecimal characters of the hash of a run directory: 64 bits, so that no two daemons share by chance."""


def state_dir(override: Path | None = None) -> Path:
    """Return `override`, else systemd's directory, else /var/lib/discovery for root, else the user's directory."""
    if override is not None:
        return override
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/discovery")
    return user_state_dir() or base_run_dir() / "state"


def instance_state_dir(state: Path, run_dir: Path, name: str) -> Path:
    """Return the state directory of the instance `name`, which need not exist.

    `state` and `run_dir` are the daemon's directories. Daemons with different run directories may share a state
    directory, and have instances of the same name.
    """
    daemon = hashlib.sha256(os.fsencode(run_dir.absolute())).hexdigest()[:_HASH_CHARACTERS]
    return state.absolute() / f"instances-{daemon}" / name
