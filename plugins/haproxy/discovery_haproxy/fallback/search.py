"""Search for the newest combination of forms that HAProxy accepts."""

from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import NamedTuple

from discovery import ApplyError
from discovery_haproxy.deployment.faults import SETTINGS, Part, PartKind, Refusal
from discovery_haproxy.fallback.blaming import Layout, blamed
from discovery_haproxy.fallback.composing import Accepted, Composed, Wanted, binds_of, compose, form_of
from discovery_haproxy.fallback.forms import LAST_FORM, PRESENT, Choice, Reason

_MOST_ATTEMPTS = 40
"""The largest number of configurations that HAProxy checks in one search.

With 10,000 backends HAProxy takes 0.6 s to check a configuration. The search needs one to four attempts to find a
refused part that HAProxy names, and log2 of the number of changed parts to find a refused part that HAProxy does not
name.
"""

Answer = Callable[[Composed], Awaitable[Refusal | None]]
"""Return why a configuration is refused; None if the configuration is accepted."""


class Deployment(NamedTuple):
    """How a composed configuration is deployed, only checked, and understood; and whether an address is free now."""

    attempt: Answer
    check: Answer
    layout: Callable[[Composed], Layout]
    any_is_free: Callable[[Iterable[str]], Awaitable[bool]]


class Found(NamedTuple):
    """The result of a search: the form of each part that is not in its present form, and the reason of each."""

    choice: Choice
    reasons: dict[Part, Reason]


class Search:
    """A search. The search begins with the present form of each part, or with what an earlier search has found."""

    def __init__(self, wanted: Wanted, read_accepted: Callable[[], Accepted | None], deployment: Deployment) -> None:
        """Store the arguments. `read_accepted` is called if a configuration is refused."""
        self._wanted = wanted
        self._read_accepted = read_accepted
        self._deployment = deployment
        self._attempts = 0

    @cached_property
    def _accepted(self) -> Accepted | None:
        return self._read_accepted()

    async def run(self, begin: Found) -> Found:
        """Deploy the newest combination that HAProxy accepts. Raises ApplyError with the first refusal if none is."""
        choice, reasons = dict(begin.choice), dict(begin.reasons)
        first: Refusal | None = None
        while True:
            composed, choice = self._composed(choice)
            refusal = await self._deployment.attempt(composed)
            if refusal is None:
                return Found(choice, {part: reasons[part] for part in choice})
            first = first or refusal
            self._count(first)
            lowered = await self._lowered(choice, reasons, composed, refusal)
            if lowered is None:
                raise ApplyError(first.message)
            choice = lowered

    def _count(self, first: Refusal) -> None:
        self._attempts += 1
        if self._attempts > _MOST_ATTEMPTS:
            raise ApplyError(f"{first.message}; no accepted form was found in {_MOST_ATTEMPTS} attempts")

    def _composed(self, choice: dict[Part, int]) -> tuple[Composed, dict[Part, int]]:
        """Compose; forms that exclude each other give way to the last form of every service and bind."""
        if not choice:
            return Composed(*self._wanted), choice
        try:
            return compose(self._wanted, self._accepted, choice), choice
        except ValueError:
            last = {part: form if part == SETTINGS else LAST_FORM[part.kind] for part, form in choice.items()}
            return compose(self._wanted, self._accepted, last), last

    async def _lowered(
        self, choice: dict[Part, int], reasons: dict[Part, Reason], composed: Composed, refusal: Refusal
    ) -> dict[Part, int] | None:
        """Return the choice to attempt next, and add the reasons for it; None if no choice is left."""
        certain = [fault for fault in refusal.faults if fault.address is not None or fault.part not in (None, SETTINGS)]
        if certain:  # what cannot be bound, and what names its part, is no matter of settings
            return self._lower(choice, reasons, blamed(certain, self._deployment.layout(composed)))
        found = blamed(refusal.faults, self._deployment.layout(composed))
        if not found:
            if not refusal.by_load:
                return await self._halve(choice, reasons, refusal)
            # Each further attempt could disturb the listeners.
            changed = dict.fromkeys(self._changed_parts(), Reason(refusal.faults[0].text))
            return self._lower(choice, reasons, changed)
        named = {part: reason for part, reason in found.items() if part != SETTINGS}
        changed = {part: reason for part, reason in named.items() if self._is_changed(part, choice)}
        has_earlier_settings = SETTINGS not in choice and self._next_form(SETTINGS, choice) is not None
        if has_earlier_settings and (SETTINGS in found or not changed):
            reasons[SETTINGS] = found.get(SETTINGS) or next(iter(found.values()))
            # Parts that were blamed for the settings are tried again.
            kept = choice if changed else {part: form for part, form in choice.items() if part.kind is PartKind.BIND}
            return {**(self._lower(dict(kept), reasons, changed) or kept), SETTINGS: LAST_FORM[PartKind.SETTINGS]}
        return self._lower(choice, reasons, changed or named)

    def _lower(
        self, choice: dict[Part, int], reasons: dict[Part, Reason], parts: dict[Part, Reason]
    ) -> dict[Part, int] | None:
        lowered = dict(choice)
        for part, reason in parts.items():
            form = self._next_form(part, choice)
            if form is not None:
                lowered[part] = form
                if part not in reasons or reason.address is not None:  # what is held may become free
                    reasons[part] = reason
        return lowered if lowered != choice else None

    def _next_form(self, part: Part, choice: Choice) -> int | None:
        """Return the next form of a part that differs from its form in `choice`; None if there is none."""
        begin = choice.get(part, PRESENT)
        now = self._form(part, begin, choice)
        last = LAST_FORM[part.kind]
        for form in range(begin + 1, last + 1):
            if (found := self._form(part, form, choice)) != now:
                return last if found == self._form(part, last, choice) else form
        return None

    def _is_changed(self, part: Part, choice: Choice) -> bool:
        """Report whether the form of a part in `choice` was never accepted."""
        if part.kind is PartKind.SERVICE and part.service not in self._wanted.config.services:
            return False  # a service by its host name has no options
        if not self._was_accepted(part):
            return part != SETTINGS and choice.get(part, PRESENT) < LAST_FORM[part.kind]
        form = self._next_form(part, choice)
        return form is not None and (form < LAST_FORM[part.kind] or part == SETTINGS)

    def _was_accepted(self, part: Part) -> bool:
        """Report whether there is an accepted form of the part."""
        if self._accepted is None:
            return False
        if part.kind is PartKind.BIND:
            return any(bind.address == part.address for bind in binds_of(self._accepted.config, part.service))
        if part.kind is PartKind.SERVICE:
            return part.service in self._accepted.config.services
        if part.kind is PartKind.SECTION:
            return part.section in self._accepted.config.sections
        return part == SETTINGS or self._accepted.config.stats is not None

    def _form(self, part: Part, form: int, choice: Choice) -> object:
        """Return what a part contributes to the configuration in the given form, comparable."""
        others = {each: chosen for each, chosen in choice.items() if each.service == part.service and each != part}
        return form_of(self._wanted, self._accepted, {**others, part: form}, part)

    async def _halve(
        self, choice: dict[Part, int], reasons: dict[Part, Reason], refusal: Refusal
    ) -> dict[Part, int] | None:
        """Return the choice in which the offenders that no alert names are lowered; None if lowering does not help."""
        remaining = [part for part in self._changed_parts() if part not in choice]
        lowered = dict(choice)
        if not remaining or not await self._passes(lowered, remaining, refusal):
            return None
        while not await self._passes(lowered, (), refusal):
            low, high = 1, len(remaining)
            while low < high:
                middle = (low + high) // 2
                if await self._passes(lowered, remaining[:middle], refusal):
                    high = middle
                else:
                    low = middle + 1
            offender = remaining[high - 1]
            lowered[offender] = self._earlier(offender)
            reasons.setdefault(offender, Reason(refusal.faults[0].text if refusal.faults else refusal.message))
            remaining = remaining[: high - 1]
        return lowered if lowered != choice else None

    async def _passes(self, choice: dict[Part, int], parts: Iterable[Part], refusal: Refusal) -> bool:
        self._count(refusal)
        composed, _ = self._composed({**choice, **{part: self._earlier(part) for part in parts}})
        return await self._deployment.check(composed) is None

    def _earlier(self, part: Part) -> int:
        form = LAST_FORM[part.kind]
        return form - 1 if part != SETTINGS and self._was_accepted(part) else form

    def _changed_parts(self) -> list[Part]:
        """Return the parts whose present form was never accepted, the settings first."""
        config = self._wanted.config
        parts = [SETTINGS, *(Part(PartKind.SECTION, section=name) for name in sorted(config.sections))]
        parts += [Part(PartKind.SERVICE, name) for name in sorted(config.services)]
        parts += [
            Part(PartKind.BIND, name, bind.address)
            for name in sorted(config.services)
            for bind in binds_of(config, name)
        ]
        return [part for part in parts if self._is_changed(part, {})]
