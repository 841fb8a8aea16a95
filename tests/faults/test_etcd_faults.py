"""A three-member cluster, everything that can happen to it, and what watchers and owners make of it.

Members of etcd 3.5.0 to 3.5.2 may differ after a kill under load: compare them before blaming the client.
"""

import asyncio
import json
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from etcd_versions import VERSIONS, etcd_program
from sampling import sampled

from discovery.codec import encode
from discovery.consuming.watcher import Observation, SnapshotBuilder, observe
from discovery.errors import DiscoveryError
from discovery.model import Backend, Snapshot
from discovery.providing.registrar import Registrar
from discovery.registry import Delta, RegistryEvent, Reset, Stale, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import backend, contents, eventually, eventually_sync, require_program, within
from discovery.testing.etcd import EtcdCluster, EtcdWriter

__all__ = ["etcd_program"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

CHANGES = 500
WATCHERS = 4
KEYS = [f"s{service}/b{id_}" for service in range(6) for id_ in range(8)]
REGISTERED = backend("lone", "here")


@dataclass
class Log:
    """What the writer did: at each revision, the puts and deletes."""

    changes: list[Delta] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)

    async def write(self, writer: EtcdWriter, stop: Callable[[], bool]) -> None:
        """Change something again and again until told to stop."""
        chance = random.Random(1)
        while not stop():
            keys = chance.sample(KEYS, chance.choice([1, 1, 1, 2, 5]))
            deletes = frozenset(key for key in keys if key in self.records and chance.random() < 0.4)
            port = 1024 + len(self.changes)
            puts = {
                key: encode(a_backend(key, port, "x" * chance.randrange(200))) for key in keys if key not in deletes
            }
            revision = await writer.change(puts, *deletes)
            self.changes.append(Delta(revision, puts, deletes))
            self.records = applied(self.records, self.changes[-1])
            await asyncio.sleep(0.05)

    def states(self) -> dict[int, dict[str, bytes]]:
        """The records after each change."""
        states: dict[int, dict[str, bytes]] = {0: {}}
        records: dict[str, bytes] = {}
        for change in self.changes:
            states[change.revision] = records = applied(records, change)
        return states

    def between(self, after: int, upto: int) -> list[Delta]:
        """The changes after one revision, up to another."""
        return [change for change in self.changes if after < change.revision <= upto]


def a_backend(key: str, port: int, note: str) -> Backend:
    service, _, id_ = key.partition("/")
    return backend(service, id_, port=port, labels={"note": note})


def applied(records: dict[str, bytes], change: Delta) -> dict[str, bytes]:
    return {key: value for key, value in records.items() if key not in change.deletes} | dict(change.puts)


async def record(url: str, events: list[RegistryEvent]) -> None:
    registry = open_registry(url)
    watch = registry.watch()
    try:
        async for event in watch:
            events.append(event)  # noqa: PERF401 - it never ends
    finally:
        await watch.aclose()
        await registry.close()


async def record_observations(url: str, observations: list[Observation]) -> None:
    registry = open_registry(url)
    following = observe(registry)
    try:
        async for observation in following:
            observations.append(observation)  # noqa: PERF401 - it never ends
    finally:
        await following.aclose()
        await registry.close()


def most_watched(cluster: EtcdCluster) -> EmbeddedEtcd:
    """The running member that serves the most watches."""

    def watches(member: EmbeddedEtcd) -> float:
        return member.metric("etcd_debugging_mvcc_watch_stream_total") if member.running else -1

    return max(cluster.members, key=watches)


async def harm(cluster: EtcdCluster, log: Log, tell: Callable[[str], None]) -> range:
    """One thing after another, each to the member that most watchers listen to.

    Returns the revisions of the second in which the member that hung went on.
    """

    async def apart(what: str, work: Callable[[], object], seconds: float) -> None:
        tell(what)
        await asyncio.to_thread(work)
        await asyncio.sleep(seconds)

    member = most_watched(cluster)
    await apart("kill -9", member.kill, 3)
    await apart("started", cluster.start_all, 1)

    member = most_watched(cluster)
    await apart("SIGSTOP", lambda: member.send_signal(signal.SIGSTOP), 3)
    await apart("compaction past what those who listen to it know", lambda: compact(cluster, member), 9)
    resumed = log.changes[-1].revision
    await apart("SIGCONT", lambda: member.send_signal(signal.SIGCONT), 1)
    awake = range(resumed, log.changes[-1].revision + 1)

    at = cluster.members.index(most_watched(cluster))
    await apart("cut from the quorum", lambda: cluster.cut(at), 8)
    await apart("healed", cluster.heal, 2)

    for each in cluster.members:
        await apart("all down", each.kill, 0)
    await asyncio.sleep(15)
    await apart("all back", cluster.start_all, 1)
    await apart("compaction of what all know", lambda: compact(cluster), 1)
    return awake


def compact(cluster: EtcdCluster, hung: EmbeddedEtcd | None = None) -> None:
    """Forget all that was before the present revision."""
    member = next(member for member in cluster.members if member is not hung)

    def compacted() -> bool:
        try:
            status = json.loads(member.ctl("get", "x", "--write-out=json"))
            member.ctl("compact", str(status["header"]["revision"]))
        except DiscoveryError as error:
            return "has been compacted" in str(error)  # by an attempt that timed out
        return True

    eventually_sync(compacted, "the compaction", 30)


def check_watch(events: list[RegistryEvent], log: Log) -> int:
    """Compare the events of a watch with what was written. Return how often the watch listed the records again."""
    states = log.states()
    assert isinstance(next(event for event in events if not isinstance(event, Stale)), Reset)
    listed = at = 0
    records: dict[str, bytes] = {}
    told: list[Delta] = []
    resets = -1
    for event in [*events, Reset(10**9, {})]:
        match event:
            case Stale():
                continue
            case Reset():
                # Between two listings the watch's log is the writer's.
                assert told == log.between(listed, at)
                told, resets = [], resets + 1
                listed, records = event.revision, dict(event.records)
            case Delta(revision, puts, deletes):
                if puts or deletes:
                    assert revision > at, "revisions strictly increase"
                    told.append(event)
                else:
                    assert revision >= at
                records = applied(records, event)
        at = event.revision
        if at < 10**9:
            assert records == states[max(revision for revision in states if revision <= at)]
    return resets - 1


def check_snapshots(observations: list[Observation], log: Log) -> None:
    """Hold each snapshot against the records at its revision."""
    states = log.states()
    for observation in observations:
        if observation.snapshot is not None:
            at = observation.snapshot.revision
            assert observation.snapshot == snapshot_of(at, states[max(known for known in states if known <= at)])


def snapshot_of(revision: int, records: dict[str, bytes]) -> Snapshot:
    builder = SnapshotBuilder()
    snapshot = builder.apply(Reset(revision, records)).snapshot
    assert snapshot is not None
    return snapshot


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
def test_five_hundred_changes_and_a_lease_through_every_fault(etcd_program: Path) -> None:
    """Point 1."""
    require_program("etcdctl")
    with EtcdCluster(program=etcd_program) as cluster:
        asyncio.run(go_through(cluster))


async def go_through(cluster: EtcdCluster) -> None:
    url, leases_url = f"{cluster.url}/watched", f"{cluster.url}/leases"
    writer = EtcdWriter(url)
    log = Log()
    watched: list[list[RegistryEvent]] = [[] for _ in range(WATCHERS)]
    observed: list[Observation] = []
    registrations: list[RegistryEvent] = []
    clock = asyncio.get_running_loop().time
    began = clock()
    done = False

    def tell(what: str) -> None:
        print(f"{clock() - began:5.1f} s, {len(log.changes)} changes: {what}")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(writer.close)

        def start(work: Awaitable[object]) -> "asyncio.Future[object]":
            task = asyncio.ensure_future(work)

            async def stop() -> None:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

            stack.push_async_callback(stop)
            return task

        for events in watched:
            start(record(url, events))
        start(record_observations(url, observed))
        writing = start(log.write(writer, lambda: done and len(log.changes) >= CHANGES))

        owner = open_registry(leases_url)
        stack.push_async_callback(owner.close)
        registrar = Registrar(owner, "host-1", 9, structlog.get_logger())
        registrar.set([REGISTERED])
        start(registrar.run())
        await eventually(lambda: registrar.status.registered, "the registration")
        start(record(leases_url, registrations))
        await eventually(lambda: all([*watched, observed, registrations]), "the first listings")

        awake = await harm(cluster, log, tell)
        done = True
        await asyncio.wait_for(writing, within(90))
        tell("written")
        last = log.changes[-1].revision

        def caught_up() -> bool:
            return all(latest(events) >= last for events in watched) and (
                observed[-1].snapshot is not None and observed[-1].snapshot.revision >= last
            )

        await eventually(caught_up, "all watches to catch up", 30)
        tell("caught up")
        await check_lease(cluster, registrations, awake, tell)

        reader = open_registry(url)
        stack.push_async_callback(reader.close)
        now = await contents(reader)
        assert now == log.records
        assert observed[-1].snapshot == snapshot_of(observed[-1].snapshot.revision, now)  # type: ignore[union-attr]

    resets = [check_watch(events, log) for events in watched]
    tell(f"listed again: {resets}")
    assert sum(resets) > 0, "the compaction was past what someone knew"
    assert all(count <= 2 for count in resets)
    check_snapshots(observed, log)
    for events in watched:
        assert any(isinstance(event, Stale) for event in events), "no member at all for 15 s was reported"


def latest(events: list[RegistryEvent]) -> int:
    return next((event.revision for event in reversed(events) if not isinstance(event, Stale)), 0)


async def check_lease(
    cluster: EtcdCluster, events: list[RegistryEvent], awake: range, tell: Callable[[str], None]
) -> None:
    """The registration was never absent by the owner's fault, and is back after its lease is revoked.

    A leader that has hung for longer than a lease lasts revokes it when it goes on, before it learns that it has been
    deposed, however often it was renewed meanwhile: etcd-io/etcd#15247.
    """
    key = f"{REGISTERED.service}/{REGISTERED.id}"
    for number, event in enumerate(events):
        if isinstance(event, Delta) and event.deletes:
            assert event.revision in awake
            assert any(isinstance(later, Delta) and later.puts for later in events[number:])
        assert not (isinstance(event, Reset) and key not in event.records)
    told = len(events)
    member = cluster.members[0]
    found = json.loads(member.ctl("get", f"/leases/{key}", "--write-out=json"))
    member.ctl("lease", "revoke", f"{found['kvs'][0]['lease']:x}")
    tell("lease revoked")
    await eventually(lambda: any(isinstance(event, Delta) and event.deletes for event in events[told:]), "it to go")
    await eventually(lambda: any(isinstance(event, Delta) and event.puts for event in events[told:]), "it to be back")
    tell("registered again")
