"""The directories of a daemon, below which each instance has its own."""

from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.plugin import Context
from discovery.system.statedir import instance_state_dir


class Directories(NamedTuple):
    """The daemon's run directory, and its directory for what outlives a reboot."""

    run_dir: Path
    state_dir: Path

    def state_dir_of(self, name: str) -> Path:
        """Return the state directory of an instance."""
        return instance_state_dir(self.state_dir, self.run_dir, name)

    def context(self, name: str, log: FilteringBoundLogger) -> Context:
        """Return the context of an instance that does not run in the daemon. No directory is created."""
        return Context(name, self.run_dir / name, log, state_dir=self.state_dir_of(name))
