"""Health checks: a probe of a backend, the interval of the probe, and the consequence of its outcomes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

from discovery.model import Backend

if TYPE_CHECKING:
    from discovery.system.lookups import Lookup  # imports asyncio, which takes longer than most commands


class Verdict(StrEnum):
    """The result of a probe, the worst last."""

    PASSING = "passing"
    DRAINING = "draining"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a single run of a probe.

    `verdict` is the result. `detail` is a line for a person. `weight`, 0-256, is the weight that the backend should
    have now; None leaves the weight unchanged.
    """

    verdict: Verdict = Verdict.PASSING
    detail: str = ""
    weight: int | None = None


@runtime_checkable
class Probe(Protocol):
    """Examines a backend. Hashable and compared by value: the core takes two equal probes for the same probe."""

    async def __call__(self, backend: Backend) -> Outcome:
        """Examine `backend` once. An exception counts as failing. The core cancels the call after the check's timeout.

        Runs on the event loop of the provider, so it must not block.
        """


@runtime_checkable
class NamedProbe(Probe, Protocol):
    """A probe that looks up host names, or contains a probe that does.

    Before the first run the core calls `with_lookup`, so that all probes of a daemon share one set of threads and the
    last answers. A probe on which `with_lookup` was not called looks names up by itself.
    """

    def with_lookup(self, lookup: "Lookup") -> Self:
        """Return an equal probe that looks host names up by `lookup`."""


@dataclass(frozen=True, slots=True)
class Check:
    """A `probe`, the interval of the probe, and the consequence of its outcomes. Times are in seconds.

    `interval` is the longest pause between two runs, and `timeout` the time after which a run has failed. The
    first outcome counts at once, as does the first success of a backend that has never passed. After that, `rise`
    successes in a row end a failure, and `fall` failures in a row begin one. Draining begins with the first outcome
    that says so, and ends after `rise` successes in a row. `on_failure` says whether a failing backend is withdrawn or
    registered as draining. The registered weight follows the weights of the outcomes, and changes at most once in
    `weight_interval`.
    """

    probe: Probe
    interval: float = 5.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    on_failure: Literal["withdraw", "drain"] = "withdraw"
    weight_interval: float = 10.0
