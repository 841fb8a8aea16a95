"""What a provider knows already."""

from dataclasses import dataclass

from discovery.checks import Outcome
from discovery.model import Backend


@dataclass(frozen=True, slots=True)
class ReportedProbe:
    """What the provider knows already, such as Docker's own health. It counts at once, whatever `rise` and `fall`."""

    outcome: Outcome

    async def __call__(self, backend: Backend) -> Outcome:
        """Tell it."""
        return self.outcome
