"""The protocol between the consumer and the HAProxy that serves its configuration."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from discovery import ApplyError, Health, Sample
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.vantage import Vantage
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.rendering.render import Rendered


class RefusedError(ApplyError):
    """HAProxy has tried and failed to load a configuration, which has disturbed its listeners.

    `alerts` are HAProxy's, as far as HAProxy's output is known.
    """

    alerts: tuple[str, ...] = ()


class Target(Protocol):
    """A HAProxy that configurations are deployed to: a managed one or an external one.

    All methods are called on one event loop, `prepare` and `deploy` never concurrently with themselves.
    """

    @property
    def path(self) -> Path:
        """Path of the configuration file."""

    @property
    def live_generation(self) -> str | None:
        """Generation of the configuration that HAProxy serves, as far as proven; else None."""

    @property
    def running(self) -> bool:
        """Report whether HAProxy runs. An external HAProxy is taken to run."""

    @property
    def reachable(self) -> bool:
        """Report whether the files through which HAProxy is controlled exist. A reload does not recreate them."""

    async def open(self) -> None:
        """Connect to a HAProxy that runs already. Do nothing if none runs. Raises ApplyError or OSError."""

    async def prepare(self, rendered: Rendered) -> None:
        """Write the configuration and its map files beside the present files, unchecked by HAProxy.

        Raises ApplyError or OSError.
        """

    def needs_check(self, rendered: Rendered) -> bool:
        """Report whether the configuration has to be checked before `deploy`, unless HAProxy's start is the check."""

    async def deploy(self, generation: str, checker: Checker, unchecked: Rendered | None) -> None:
        """Make the prepared configuration live, and return when HAProxy serves `generation`.

        `unchecked` is the configuration if `checker` has not checked it, else None. Raises ApplyError with
        HAProxy's reason, RefusedError if HAProxy tried and failed to load the configuration; the previous configuration
        then goes on serving.
        """

    def verify(self, config: HAProxyConfig) -> None:
        """Verify the live servers from now on, as the options say."""

    def vantage(self) -> Vantage:
        """Return HAProxy's processes, and how far this process sees what HAProxy sees."""

    def metrics(self) -> Iterable[Sample]:
        """Return the metrics of HAProxy's changes. Called from any thread."""

    def inspect(self) -> Mapping[str, Any]:
        """Return details for `/api/consumers/NAME`: the last change, and what is left of earlier changes."""

    @property
    def log_drops(self) -> LogDrops:
        """Lines of HAProxy's log that HAProxy has dropped, as of the last health check or reload."""

    async def health(self) -> Health:
        """Report whether HAProxy runs and answers."""

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last change that its proof took; None if that is not known."""

    @property
    def statistics(self) -> ControlSocket | None:
        """The socket that tells the statistics of the worker that serves; None if there is none to ask."""

    async def hand_over(self) -> None:
        """Release HAProxy to the next daemon. HAProxy goes on serving."""

    async def close(self) -> None:
        """Stop a managed HAProxy gracefully; leave an external HAProxy running."""
