"""Keeps a service that cannot be rendered from affecting other services.

A search finds the services that a format or a check refuses. A refused service stays in the form that was accepted
last. A service that was never accepted is left out.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from discovery import ApplyError
from discovery_template.printing.views import ServiceView

T = TypeVar("T")


class RefusedError(ApplyError):
    """What was rendered is refused, perhaps because of a service: by a format, a template or a check.

    `marks` name the refused values, or the line of the template, so that the same fault is known in another rendering.
    """

    def __init__(self, message: str, marks: frozenset[str] = frozenset()) -> None:
        """Store the arguments."""
        super().__init__(message)
        self.marks = marks


class Containment(Generic[T]):
    """Finds refused services, and remembers the form of each service that was accepted last.

    `attempt` renders and checks services, and `render` only renders some: both raise RefusedError. Another exception of
    `attempt` ends the search: a check that cannot be run says nothing of a service.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[ServiceView]], Awaitable[T]],
        render: Callable[[Sequence[ServiceView]], object],
    ) -> None:
        """Store the functions."""
        self._attempt = attempt
        self._render = render
        self._accepted: Mapping[str, ServiceView] = {}
        self._used: Mapping[str, ServiceView] = {}
        """The accepted forms that the last composition could use; `accept` makes these the accepted forms."""
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
        return "the last accepted form stands" if name in self._used else "the service is left out"

    async def compose(self, services: Sequence[ServiceView]) -> T:
        """Return what the attempt makes of as many services as are accepted. Raises RefusedError if of none.

        `accept` records the services, once what was made is in use.
        """
        present = set(services)
        self._refused = {service: reason for service, reason in self._refused.items() if service in present}
        self._used = self._accepted
        try:
            return await self._attempt(self._with_accepted(services))
        except RefusedError as error:
            suspects = [each for each in services if each not in self._refused]
            changed = [each for each in suspects if self._accepted.get(each.name) != each]
            for group, accepted in ((changed, self._accepted), (suspects, self._accepted), (suspects, {})):
                # Without accepted forms at last: another template may refuse these, too.
                self._used = accepted
                found: dict[ServiceView, str] = {}
                result = await self._without_refused(services, group, error.marks, found)
                if result is not None:
                    self._refused |= found
                    return result
            self._used = self._accepted
            raise

    def accept(self, services: Sequence[ServiceView]) -> None:
        """Record that these services, but for those that are refused, are in use."""
        names = {service.name for service in services}
        kept = {name: each for name, each in self._used.items() if name in names}
        self._accepted = {**kept, **{each.name: each for each in services if each not in self._refused}}
        self._used = self._accepted

    @property
    def forms(self) -> tuple[ServiceView, ...]:
        """The accepted forms that stand in the place of refused services, ordered by name."""
        return tuple(self._accepted[name] for name in self.reasons if name in self._accepted)

    def restore(self, forms: Sequence[ServiceView]) -> None:
        """Take the accepted forms that an earlier daemon has kept."""
        self._accepted = self._used = {service.name: service for service in forms}

    def _with_accepted(self, services: Sequence[ServiceView], held: frozenset[str] = frozenset()) -> list[ServiceView]:
        """Return the services, each refused or held one in its accepted form or not at all."""
        forms = []
        for service in services:
            if service in self._refused or service.name in held:
                if (accepted := self._used.get(service.name)) is not None and accepted != service:
                    forms.append(accepted)
            else:
                forms.append(service)
        return forms

    async def _without_refused(
        self,
        services: Sequence[ServiceView],
        suspects: Sequence[ServiceView],
        marks: frozenset[str],
        found: dict[ServiceView, str],
    ) -> T | None:
        """Find the refused ones among the suspects; return what the others make, or None if that is refused, too.

        `marks` are those of the refusal of all; `found` gets each refused service with its reason.
        """
        while more := self._refused_alone([each for each in suspects if each not in found], marks):
            found |= more
            try:
                return await self._attempt(self._with_accepted(services, _names(found)))
            except RefusedError as error:
                marks = error.marks
        return await self._search(services, [each for each in suspects if each not in found], found)

    def _refused_alone(self, suspects: Sequence[ServiceView], marks: frozenset[str]) -> dict[ServiceView, str]:
        """Return the suspects that each by itself cannot be rendered for the same fault: all in about one rendering."""
        refused = {}
        for service in suspects if marks else ():
            try:
                self._render([service])
            except RefusedError as error:
                if error.marks & marks:
                    refused[service] = str(error)
        return refused

    async def _search(
        self, services: Sequence[ServiceView], suspects: Sequence[ServiceView], found: dict[ServiceView, str]
    ) -> T | None:
        """Find the refused ones among the suspects by halves; return what the others make, or None if that fails.

        All suspects together are refused, or were before accepted forms were given up.
        """
        held = _names(suspects) | _names(found)
        try:
            result = await self._attempt(self._with_accepted(services, held))
        except RefusedError:
            return None  # the reason is elsewhere
        groups = _halves(suspects)
        is_complete = True
        while groups:
            group = groups.pop()
            others = held - _names(group)
            try:
                result = await self._attempt(self._with_accepted(services, others))
                held, is_complete = others, True
            except RefusedError as error:
                is_complete = False
                if len(group) == 1:
                    found[group[0]] = str(error)
                else:
                    groups += _halves(group)
        return result if is_complete else await self._attempt(self._with_accepted(services, held))


def _names(services: Iterable[ServiceView]) -> frozenset[str]:
    return frozenset(service.name for service in services)


def _halves(group: Sequence[ServiceView]) -> list[Sequence[ServiceView]]:
    """Return the halves of a group, the second first; of a group of one or none, the group."""
    half = len(group) // 2
    return [each for each in (group[half:], group[:half]) if each]
