"""What a health check is: a probe of one backend, how often, and what follows from its outcome."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

from discovery.model import Backend

if TYPE_CHECKING:
    from discovery.lookups import Lookup  # imports asyncio, which takes longer than most commands


class Verdict(StrEnum):
    """What a probe found, the worst last."""

    PASSING = "passing"
    DRAINING = "draining"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a probe: `detail` is one line for a person, `weight` (0-256) what the backend should be given now."""

    verdict: Verdict = Verdict.PASSING
    detail: str = ""
    weight: int | None = None


@runtime_checkable
class Probe(Protocol):
    """Looks at a backend once. Hashable and compared by value, so that an equal one is known to be the same."""

    async def __call__(self, backend: Backend) -> Outcome:
        """Look once. What it raises is a failure, told in one line; the core cancels it when its time is over."""


@runtime_checkable
class NamedProbe(Probe, Protocol):
    """A probe that looks up host names, or is made of one that does.

    Before the first run the core calls `with_lookup`, so that all probes of a daemon share one set of threads and the
    last answers. A probe on which it was not called looks names up by itself.
    """

    def with_lookup(self, lookup: "Lookup") -> Self:
        """An equal probe that looks host names up by `lookup`."""


@dataclass(frozen=True, slots=True)
class Check:
    """A probe and its rules. Times are seconds.

    The first outcome counts at once, and so does the first success of what has never worked; from then on `rise`
    successes in a row end a failure and `fall` failures begin one. Draining begins at once, and is ended by `rise` runs
    that pass. What fails is withdrawn, or kept as draining. A probe that gives weights is followed smoothly, the
    announced weight changing at most once in `weight_interval`.
    """

    probe: Probe
    interval: float = 5.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    on_failure: Literal["withdraw", "drain"] = "withdraw"
    weight_interval: float = 10.0
