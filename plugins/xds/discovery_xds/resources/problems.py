"""Faults of single parts of a catalog."""


class Problems(dict[str, str]):
    """Reasons by the name of what has the fault, as in `Health`."""

    def add(self, what: str, reason: str) -> None:
        """Add a reason, beside those that `what` has. An empty reason is none."""
        if reason:
            self[what] = "; ".join(filter(None, (self.get(what), reason)))
