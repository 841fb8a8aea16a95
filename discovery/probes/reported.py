"""A probe for an outcome that a provider knows already."""

from dataclasses import dataclass

from discovery.checks import Outcome
from discovery.model import Backend


@dataclass(frozen=True, slots=True)
class ReportedProbe:
    """An outcome that the provider knows, such as Docker's own health. Counts at once, without `rise` and `fall`."""

    outcome: Outcome

    async def __call__(self, backend: Backend) -> Outcome:
        """Return the outcome."""
        return self.outcome
