"""One bad service hurts itself alone: the services that a format or a check refuses are found and kept back.

A service that is refused stays in the form that was accepted last, or is left out if there is none.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from discovery import ApplyError
from discovery_template.printing.views import ServiceView

T = TypeVar("T")


class RefusedError(ApplyError):
    """What was rendered is refused, perhaps because of a service: by a format, a template or a check."""


class Containment(Generic[T]):
    """What is refused, and what was accepted last. `attempt` tries services, and raises RefusedError."""

    def __init__(self, attempt: Callable[[Sequence[ServiceView]], Awaitable[T]]) -> None:
        """Store the function that renders and checks services."""
        self._attempt = attempt
        self._accepted: dict[str, ServiceView] = {}
        self._refused: dict[ServiceView, str] = {}

    def forget(self) -> None:
        """Try again what was refused: the operator may have changed a template or the program."""
        self._refused.clear()

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reason for each refused service, by name."""
        return {service.name: reason for service, reason in sorted(self._refused.items())}

    @property
    def problems(self) -> Mapping[str, str]:
        """The reason for each refused service, and what stands instead, by a name for people."""
        return {f"service {name}": f"{reason}; {self._instead(name)}" for name, reason in self.reasons.items()}

    def _instead(self, name: str) -> str:
        return "the last accepted form stands" if name in self._accepted else "the service is left out"

    async def compose(self, services: Sequence[ServiceView]) -> T:
        """Return what the attempt makes of as many services as are accepted. Raises RefusedError if of none.

        `accept` records the services, once what was made is in use.
        """
        present = set(services)
        self._refused = {service: reason for service, reason in self._refused.items() if service in present}
        try:
            return await self._attempt(self._with_accepted(services))
        except RefusedError as error:
            suspects = [each for each in services if each not in self._refused]
            changed = [each for each in suspects if self._accepted.get(each.name) != each]
            former = self._accepted
            for group, accepted in ((changed, former), (suspects, former), (suspects, {})):
                # Without accepted forms at last: another template may refuse these, too.
                self._accepted = accepted
                found: dict[ServiceView, str] = {}
                result = await self._search(services, group, str(error), found)
                if result is not None:
                    self._refused |= found
                    return result
            self._accepted = former
            raise

    def accept(self, services: Sequence[ServiceView]) -> None:
        """Record that these services, but for those that are refused, are in use."""
        names = {service.name for service in services}
        kept = {name: each for name, each in self._accepted.items() if name in names}
        self._accepted = {**kept, **{each.name: each for each in services if each not in self._refused}}

    @property
    def forms(self) -> tuple[ServiceView, ...]:
        """The accepted forms that stand in the place of refused services, ordered by name."""
        return tuple(self._accepted[name] for name in self.reasons if name in self._accepted)

    def restore(self, forms: Sequence[ServiceView]) -> None:
        """Take the accepted forms that an earlier daemon has kept."""
        self._accepted = {service.name: service for service in forms}

    def _with_accepted(self, services: Sequence[ServiceView], held: frozenset[str] = frozenset()) -> list[ServiceView]:
        """Return the services, each refused or held one in its accepted form or not at all."""
        forms = []
        for service in services:
            if service in self._refused or service.name in held:
                if (accepted := self._accepted.get(service.name)) is not None and accepted != service:
                    forms.append(accepted)
            else:
                forms.append(service)
        return forms

    async def _search(
        self,
        services: Sequence[ServiceView],
        suspects: Sequence[ServiceView],
        reason: str,
        found: dict[ServiceView, str],
    ) -> T | None:
        """Find the refused ones among the suspects by halves; return what the others make, or None if that fails.

        `reason` is why all suspects together are refused; `found` gets each refused service with its reason.
        """
        held = {service.name for service in suspects}
        try:
            result = await self._attempt(self._with_accepted(services, frozenset(held)))
        except RefusedError:
            return None  # the reason is elsewhere
        groups = [(list(suspects), reason)]
        while groups:
            group, why = groups.pop()
            if not group:
                continue
            held -= {service.name for service in group}
            try:
                result = await self._attempt(self._with_accepted(services, frozenset(held)))
            except RefusedError as error:
                held |= {service.name for service in group}
                if len(group) == 1:
                    found[group[0]] = str(error)
                else:
                    half = len(group) // 2
                    groups += [(group[half:], why), (group[:half], why)]
        if found:
            result = await self._attempt(self._with_accepted(services, frozenset(held)))
        return result
