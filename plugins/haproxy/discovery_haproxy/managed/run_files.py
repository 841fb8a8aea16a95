"""Paths of a managed HAProxy in its run directory."""

from contextlib import suppress
from pathlib import Path

from discovery.toolkit import SOCKET_PATH_BYTES, is_too_long_for_a_socket
from discovery_haproxy.deployment.bind_check import SOCKET_SUFFIX_BYTES


class RunFiles:
    """Paths of the configuration file, the sockets, the server-state file and the log pipe."""

    def __init__(self, run_dir: Path) -> None:
        """Compute the paths. No file is created or read."""
        run_dir = run_dir.absolute()
        self.config = run_dir / "haproxy.cfg"
        self.stats_socket = run_dir / "stats.sock"
        self.server_states = run_dir / "servers.state"
        self.master_socket = run_dir / "master.sock"
        self.log = run_dir / "log.pipe"
        self.peers_socket = run_dir / "peers.sock"
        self.master_socket_argument = f"{self.master_socket},mode,600"
        """Argument of HAProxy's option `-S`; identifies every HAProxy process of this run directory."""

    @property
    def path_length_error(self) -> str | None:
        """Error message if the run directory's path is too long for HAProxy's sockets; else None."""
        if not is_too_long_for_a_socket(self.master_socket, SOCKET_SUFFIX_BYTES):
            return None
        longest = SOCKET_PATH_BYTES - SOCKET_SUFFIX_BYTES
        return (
            f"{self.master_socket} is a path of more than {longest} bytes, too long for HAProxy's"
            " sockets: choose a shorter name for the instance, or another --run-dir"
        )

    @property
    def missing(self) -> str:
        """Names of the files that a running HAProxy needs and that are missing; empty if all are there."""
        paths = (self.stats_socket, self.master_socket, self.log)
        return ", ".join(path.name for path in paths if not path.exists())

    def remove_runtime_files(self) -> None:
        """Remove the files that are useful only while HAProxy runs. The configuration file stays."""
        for path in (self.stats_socket, self.server_states, self.master_socket, self.log, self.peers_socket):
            with suppress(OSError):
                path.unlink()
