"""Pools of backends, and the hosts and paths whose requests go to a pool. Pure."""

from typing import NamedTuple
from zlib import crc32

from discovery.routing import HostKind
from discovery_template.options.proxy import Balance, CheckConfig
from discovery_template.printing.views import BackendView


class Pool(NamedTuple):
    """The backends of a service that get new connections, and how they share them."""

    name: str
    mode: str
    balance: Balance
    check: CheckConfig | None
    backends: tuple[BackendView, ...]

    @property
    def section(self) -> str:
        """Name of the pool in a configuration, in lower case: to nginx and httpd `Web` and `web` are one name."""
        name = self.name.lower()
        return name if name == self.name else f"{name}_{crc32(self.name.encode()):08x}"


class Path_(NamedTuple):  # noqa: N801 - pathlib has the name
    """Requests for `path` and below go to `pool`."""

    path: str
    pool: Pool


class Host(NamedTuple):
    """Requests for the hosts of `pattern`. The route with the longest matching path decides."""

    pattern: str
    kind: HostKind
    paths: tuple[Path_, ...]
