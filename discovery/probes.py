"""The probes that come with the core, and the settings with which a plugin's user asks for one.

Public: plugins of third parties import it.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from discovery.checks import Check, Outcome
from discovery.model import Backend
from discovery.plugin import PluginConfig

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Passes if a TCP connection comes about, with `address` (host, port) where it is not the backend's own."""

    address: Address | None = None

    async def __call__(self, backend: Backend) -> Outcome:
        """Connect, and close."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back: the body is cut after 64 KiB."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Passes if the answer has one of `status` (inclusive ranges) and, with `body`, that regex is found in it."""

    path: str = "/"
    method: str = "GET"
    status: tuple[tuple[int, int], ...] = ((200, 399),)
    body: str | None = None
    host: str | None = None  # the Host header, and over TLS the name in the certificate
    tls: bool = False
    verify: bool = True
    address: Address | None = None

    async def __call__(self, backend: Backend) -> Outcome:
        """Ask, and judge the answer."""
        raise NotImplementedError

    async def fetch(self, backend: Backend) -> HttpResponse:
        """The answer alone, whatever it is, for probes that understand more of it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """Passes if a program exits with 0, says draining with `draining`, and fails with any other status.

    Told in its environment: DISCOVERY_SERVICE, DISCOVERY_ID, DISCOVERY_HOST, DISCOVERY_PORT.
    """

    argv: tuple[str, ...]
    draining: int | None = 75  # EX_TEMPFAIL

    async def __call__(self, backend: Backend) -> Outcome:
        """Run it, without a shell."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ReportedProbe:
    """What the provider knows already, such as Docker's own health. It counts at once, whatever `rise` and `fall`."""

    outcome: Outcome = Outcome()

    async def __call__(self, backend: Backend) -> Outcome:
        """Tell it."""
        return self.outcome


class CheckSettings(PluginConfig):
    """A `check` table. `checks()` makes of it what a Candidate takes."""

    type: Literal["http", "tcp", "command", "none"] = Field("tcp", description="What is asked of the backend")
    path: str = Field("/", description="http: what to ask for")
    interval: float = 5.0
    timeout: float = 2.0

    def checks(
        self, *, path: str | None = None, interval: float | None = None, timeout: float | None = None
    ) -> tuple[Check, ...]:
        """The checks as configured: one, or none for "none". A `path` makes it an http check.

        What is given replaces what is configured, and is checked like it: ValueError, with the reason in a line.
        """
        raise NotImplementedError
