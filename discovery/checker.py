"""Runs the checks of a provider's candidates, and says which backends are to be registered, and how.

Knows neither providers nor the registry.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from discovery.checks import Verdict
from discovery.model import Backend
from discovery.plugin import Candidate


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """One candidate: the backend as it is (or would be) registered; no verdict before the first outcome."""

    backend: Backend
    verdict: Verdict | None = None
    detail: str = ""
    registered: bool = False


class Checker:
    """Follows a set of candidates.

    `publish` is first called once every candidate of the first set has had its first outcome (or after `patience`
    seconds), and then at every difference, with all the backends to be registered.
    """

    def __init__(
        self,
        publish: Callable[[tuple[Backend, ...]], None],
        log: FilteringBoundLogger,
        *,
        patience: float = 5.0,
        concurrency: int = 64,
    ) -> None:
        """Begin with nothing. At most `concurrency` probes run at a time."""
        raise NotImplementedError

    def set(self, candidates: Iterable[Candidate]) -> None:
        """Say what there is: all of it, every time. On the loop of `run`, before it or meanwhile."""
        raise NotImplementedError

    @property
    def status(self) -> Mapping[str, CandidateStatus]:
        """How each candidate is, by its key in the registry; from any thread."""
        raise NotImplementedError

    async def run(self) -> None:
        """Check, and publish, until cancelled."""
        raise NotImplementedError
