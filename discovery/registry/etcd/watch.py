"""The watch of a prefix: lists, verifies and follows the keys, and continues at another member after a failure."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import NamedTuple

from discovery.errors import AccessDeniedError, DiscoveryError, RegistryError
from discovery.registry.base import Delta, RegistryEvent, Stale
from discovery.registry.etcd.client import Client, rounds
from discovery.registry.etcd.connection import Connection, Stream
from discovery.registry.etcd.failures import (
    CompactedError,
    FutureRevisionError,
    MemberUnavailableError,
    explain,
    reason,
)
from discovery.registry.etcd.follower import Canceled, ResyncNeeded, WatchHistory
from discovery.registry.etcd.listing import PrefixListing, list_prefix
from discovery.registry.etcd.messages import (
    LEASE_TIME_TO_LIVE,
    WATCH,
    LeaseTimeToLiveRequest,
    Message,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    range_end,
)
from discovery.registry.etcd.ttls import TTLs

_PROGRESS = WatchRequest(progress_request=WatchProgressRequest())
_UNSURE_AUDITS = 3
"""Audits in a row without a result, because of compactions, after which the watch lists again."""
_SETTLED_SECONDS = 1.0
"""Seconds after which a stream counts as working, so that the failures before it are forgotten."""
_LOOKUPS = 4
"""TTLs that are looked up at the same time, so that thousands of leases do not load the cluster's leader."""
_LOOKUP_PAUSE = 0.01
"""Seconds between groups of lookups, so that thousands of leases do not delay other tasks of the event loop."""


class Timing(NamedTuple):
    """The timeouts and intervals of a watch, in seconds.

    `attempt` is the timeout of a read and of the creation of a watch. After `idle` without a response the watch sends a
    progress request, and the member has `answer` for any response.

    After a silence of `pause` the watch reports Stale even if the member continues: leases may have expired only
    because the server was suspended. `pause` is less than two thirds of the registrars' TTL of 10 s: a lease has at
    least that much time left when the suspension begins.

    An outage is reported after `outage` of failed attempts, or as soon as every member has failed. `audit` is the time
    between audits, which compare the known state with a listing, and `audit_again` the time after an audit without a
    result.
    """

    attempt: float = 3.0
    idle: float = 4.0
    answer: float = 3.0
    pause: float = 6.5
    outage: float = 5.0
    audit: float = 300.0
    audit_again: float = 5.0


class _ResyncNeededError(Exception):
    """The watch cannot continue from the known state. A new listing is needed."""


class Watch:
    """A watch of a prefix: the known state, and the member that is followed at present."""

    def __init__(self, client: Client, prefix: bytes, timing: Timing) -> None:
        """Create the watch of `prefix`. No I/O before `events`."""
        self._client = client
        self._endpoints = client.settings.endpoints
        self._timing = timing
        self._follower = WatchHistory(prefix)
        self._at = random.randrange(len(self._endpoints))  # noqa: S311 - no secret
        self._stale: str | None = None
        self._reasons: dict[str, str] = {}
        self._retries = rounds()
        self._failures = 0
        self._failing_since = 0.0
        self._logged_in_again = False
        self._opened_at: float | None = None
        self._heard = time.monotonic()
        self._another = False
        self._looking_up: asyncio.Task[None] | None = None

    async def events(self) -> AsyncGenerator[RegistryEvent, None]:
        """Yield the events of the prefix. Never ends by itself."""
        try:
            async with aclosing(self._sessions()) as events:
                async for event in events:
                    yield event
        finally:
            if self._looking_up is not None:
                self._looking_up.cancel()

    async def _sessions(self) -> AsyncGenerator[RegistryEvent, None]:
        while True:
            self._opened_at = None
            connection = self._client.connect(self._endpoints[self._at])
            wait = 0.0
            stale = None
            try:
                async with aclosing(self._session(connection)) as session:
                    async for event in session:
                        self._stale = event.reason if isinstance(event, Stale) else None
                        yield event
            except _ResyncNeededError:
                # The member works, so the next session uses the same member. Repeated doubts are delayed.
                wait = 0.0 if self._settle() else next(self._retries)
                self._follower.forget()
            except RegistryError as error:
                wait, stale = self._failed(error)
            finally:
                await connection.close()
            if stale is not None and stale != self._stale:
                self._stale = stale
                yield Stale(stale)
            await asyncio.sleep(wait)

    async def _session(self, connection: Connection) -> AsyncGenerator[RegistryEvent, None]:
        """Yield events from a single member. Raises RegistryError if the member fails, or _ResyncNeededError.

        Ends after a pause of the member. _ResyncNeededError means that the known state may be wrong.
        """
        stale = self._stale is not None
        if not await self._may_resume(connection):
            listing = await self._list(connection)
            another, self._another = self._another, False
            yield self._follower.reset(listing, another=another)
            stale = False
        elif not stale and (silence := time.monotonic() - self._heard) > self._timing.pause:
            yield self._paused(silence)
            stale = True
        stream = await connection.open(WATCH, self._timing.attempt)
        overseer = asyncio.create_task(self._oversee(stream), name=f"heartbeat of etcd {connection.endpoint}")
        try:
            await self._open(connection, stream)
            if stale:
                yield Delta(self._known, {}, present=self._follower.present)
            async with aclosing(self._follow(connection, stream)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            # The end of this generator alone does not end the stream.
            stream.close()
            overseer.cancel()

    async def _open(self, connection: Connection, stream: Stream) -> None:
        """Request the watch, and wait until the member confirms its creation."""
        self._follower.opened()
        try:
            async with asyncio.timeout(self._timing.attempt):
                await stream.send(self._create())
                while not self._follower.created:
                    if self._take(connection, await stream.receive()):
                        raise _ResyncNeededError
                self._heard = time.monotonic()
        except TimeoutError:
            raise MemberUnavailableError(f"etcd {connection.endpoint}: no answer in time") from None
        self._opened_at = time.monotonic()

    async def _follow(self, connection: Connection, stream: Stream) -> AsyncGenerator[Delta | Stale, None]:
        audit_at = time.monotonic() + self._audit_pause()
        unsure = 0
        while True:
            waiting_since = time.monotonic()
            response = await stream.receive()
            self._heard = time.monotonic()
            if (silence := self._heard - waiting_since) > self._timing.pause:
                yield self._paused(silence)
                self._settle()
                return  # another watch tells which of the changes were made before the pause ended
            for delta in self._take(connection, response):
                yield delta
            if learned := self._learned():
                yield Delta(self._known, {}, leases=learned)
            if time.monotonic() >= audit_at:
                agreed = await self._audit(connection)
                unsure = unsure + 1 if agreed is None else 0
                if agreed is False or unsure >= _UNSURE_AUDITS:
                    raise _ResyncNeededError
                audit_at = time.monotonic() + (self._timing.audit_again if unsure else self._audit_pause())

    def _paused(self, silence: float) -> Stale:
        return Stale(f"etcd {self._client.settings}: no response for {silence:.0f} s")

    def _learned(self) -> Mapping[str, float]:
        """Return the TTLs that have become known, and start the lookup of others in another task."""
        ttls = self._follower.ttls
        if ttls.wanted(1) and (self._looking_up is None or self._looking_up.done()):
            self._looking_up = asyncio.create_task(self._look_up(ttls), name="TTLs of etcd leases")
        return ttls.learned()

    async def _look_up(self, ttls: TTLs) -> None:
        while leases := ttls.wanted(_LOOKUPS):
            granted = await asyncio.gather(*map(self._granted, leases))
            for lease, ttl in zip(leases, granted, strict=True):
                ttls.learn(lease, ttl)
            await asyncio.sleep(_LOOKUP_PAUSE)

    async def _granted(self, lease: int) -> float:
        """Return the TTL in seconds that `lease` was granted; 0 if the cluster refuses or does not answer."""
        try:
            answer = await self._client.call(LEASE_TIME_TO_LIVE, LeaseTimeToLiveRequest(ID=lease))
        except DiscoveryError:
            return 0.0
        return float(answer.grantedTTL)

    async def _oversee(self, stream: Stream) -> None:
        """Send a progress request to a member that has been silent for `idle` seconds.

        Without a response within `answer` seconds the stream is ended.
        """
        while True:
            since = stream.waiting_since
            quiet = 0.0 if since is None else time.monotonic() - since
            if since is None or quiet < self._timing.idle:
                await asyncio.sleep(self._timing.idle - quiet)
                continue
            asking = asyncio.ensure_future(stream.send(_PROGRESS))
            try:
                await asyncio.sleep(self._timing.answer)
            finally:
                asking.cancel()
            if stream.waiting_since == since:
                stream.give_up(f"no response for {self._timing.idle + self._timing.answer:g} s")
                return

    def _take(self, connection: Connection, response: Message) -> tuple[Delta, ...]:
        match self._follower.receive(response):
            case ResyncNeeded():
                raise _ResyncNeededError
            case Canceled(reason):
                raise explain(connection.endpoint, None, reason)
            case deltas:
                return deltas

    async def _may_resume(self, connection: Connection) -> bool:
        """Return True if a watch at this member may continue from the known revision.

        The member's keys at the known revision must equal the known keys, and that revision must not be compacted.
        """
        try:
            if self._follower.revision is None:
                return False
            agrees = await self._agrees(connection, self._known)
        except CompactedError:
            return False
        self._another = not agrees
        return agrees

    async def _audit(self, connection: Connection) -> bool | None:
        """Return True if the known state is right, False if wrong.

        None if the known revision is compacted and the present state differs: newer events may be on their way.
        """
        try:
            return await self._agrees(connection, self._known)
        except CompactedError:
            return await self._agrees(connection, 0) or None

    async def _agrees(self, connection: Connection, revision: int) -> bool:
        try:
            return self._follower.agrees_with(await self._list(connection, revision))
        except FutureRevisionError:
            return False

    async def _list(self, connection: Connection, revision: int = 0) -> PrefixListing:
        return await list_prefix(connection, self._follower.prefix, revision=revision, timeout=self._timing.attempt)

    def _create(self) -> Message:
        prefix = self._follower.prefix
        # Previous values are not requested: they would double the size of the responses.
        return WatchRequest(
            create_request=WatchCreateRequest(
                key=prefix,
                range_end=range_end(prefix),
                # Not the next revision: etcd 3.5.23 and later answer a progress request only when the store has reached
                # the start revision, and a deletion at a compacted revision may never come (etcd-io/etcd#19179).
                # `WatchHistory` drops the repeated events.
                start_revision=self._known,
                progress_notify=True,
                fragment=True,
            )
        )

    def _failed(self, error: RegistryError) -> tuple[float, str | None]:
        """Select the next member. Return the seconds to wait, and the reason to report as Stale, or None."""
        self._settle()
        if isinstance(error, AccessDeniedError) and self._client.tokens.usable and not self._logged_in_again:
            # Some members answer "permission denied" to a watch when they do not know the token.
            self._client.tokens.forget()
            self._logged_in_again = True
            return 0.0, None
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        self._reasons[self._endpoints[self._at]] = reason(self._endpoints[self._at], error)
        self._at = (self._at + 1) % len(self._endpoints)
        wait = 0.0 if self._failures % len(self._endpoints) else next(self._retries)
        if self._failures >= len(self._endpoints) > 1:
            return wait, str(self._client.none_answers(self._reasons))
        late = time.monotonic() - self._failing_since > self._timing.outage
        only = len(self._endpoints) == 1
        return wait, str(error) if only or late or not isinstance(error, MemberUnavailableError) else None

    def _settle(self) -> bool:
        """Forget earlier failures if the stream that ended had worked for _SETTLED_SECONDS. Return True if so."""
        settled = self._opened_at is not None and time.monotonic() - self._opened_at > _SETTLED_SECONDS
        if settled:
            self._failures = 0
            self._logged_in_again = False
            self._retries = rounds()
        return settled

    @property
    def _known(self) -> int:
        return self._follower.revision or 0

    def _audit_pause(self) -> float:
        return self._timing.audit * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
