"""The members of the registry, asked on demand. All requests of a few seconds share one answer."""

import asyncio
import time
from typing import Any, NamedTuple

from discovery.errors import describe
from discovery.registry import Member, Membership, Registry, TellsMembers
from discovery.system.asyncio_tools import wait_for_tasks

FRESH_SECONDS = 5.0
"""Seconds for which an answer is shown without another question."""
ASK_SECONDS = 5.0
"""Seconds that a registry has for its answer, so that one of a plugin's that hangs is asked again."""
OLD_SECONDS = 30.0
"""Seconds after which an answer is not shown any more: nobody has looked meanwhile."""
WAIT_SECONDS = 1.5
"""Seconds that a document waits for the members: longer than a member of etcd has for its answer (1 s)."""


class Told(NamedTuple):
    """What the registry has told at `when`, an instant of `time.monotonic()`; `reason` is why it has told nothing."""

    membership: Membership
    when: float
    reason: str | None = None


class MembersLook:
    """The members of the registry in use. For one event loop. Nothing is asked while nobody looks."""

    def __init__(self, fresh: float = FRESH_SECONDS) -> None:
        """Ask nobody yet. An answer counts for `fresh` seconds."""
        self._fresh = fresh
        self._registry: object = None  # which of the optional protocols it has, is looked at
        self._asking: asyncio.Task[None] | None = None
        self._told: Told | None = None

    @property
    def tells(self) -> bool:
        """Whether the registry in use can be asked."""
        return isinstance(self._registry, TellsMembers)

    def use(self, registry: Registry) -> None:
        """Ask `registry` from now on, and forget what the one before has told. Idempotent."""
        if registry is not self._registry:
            self.stop()
            self._registry = registry

    def stop(self) -> None:
        """Ask nobody any more. Idempotent."""
        if self._asking is not None:
            self._asking.cancel()
        self._registry = self._asking = self._told = None

    def glance(self) -> Told | None:
        """Return the last answer at once, None before the first; ask in the background if it is old."""
        age = 0.0 if self._told is None else time.monotonic() - self._told.when
        if age >= OLD_SECONDS:
            self._told = None
        idle = self._asking is None or self._asking.done()
        if (self._told is None or age >= self._fresh) and idle and isinstance(self._registry, TellsMembers):
            self._asking = asyncio.create_task(self._ask(self._registry), name="members of the registry")
        return self._told

    async def look(self, seconds: float = WAIT_SECONDS) -> Told | None:
        """Return a fresh answer, or after `seconds` the last one; None before the first."""
        self.glance()
        if (asking := self._asking) is not None:
            await wait_for_tasks({asking}, seconds)
        return self._told

    async def _ask(self, registry: TellsMembers) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                membership, reason = await registry.members(), None
        except TimeoutError:
            membership, reason = Membership(), f"the registry has not told its members within {ASK_SECONDS:g} s"
        except Exception as error:  # noqa: BLE001 - the registry may be a plugin's, which may raise anything
            membership, reason = Membership(), describe(error)
        if self._registry is registry:
            self._told = Told(membership, time.monotonic(), reason)


def state_of(each: Member) -> str:
    """Return how a member is, in a word or two."""
    if not each.asked:
        return "not asked"
    if each.reason is None:
        return "answers"
    return "not serving" if each.version is None else "degraded"


def role_of(leads: bool | None, *, votes: bool) -> str:
    """Return what a member does, in a word; empty if that is not known."""
    if not votes:
        return "learner"
    return {True: "leader", False: "follower", None: ""}[leads]


def members_document(told: Told | None) -> dict[str, Any]:
    """Return the members as an object of JSON. `told` is None if the registry has not answered yet."""
    if told is None:
        return {"age_seconds": None, "reason": "the registry has not told its members yet", "members": []}
    return {
        "age_seconds": round(time.monotonic() - told.when, 3),
        "reason": told.reason or told.membership.unknown,
        "members": [
            {
                "name": each.name,
                "endpoints": list(each.endpoints),
                "state": state_of(each),
                "reason": each.reason,
                "role": role_of(each.leads, votes=each.votes) or None,
                "version": each.version,
                "size_bytes": each.size,
            }
            for each in told.membership.members
        ],
    }
