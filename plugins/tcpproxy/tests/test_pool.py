"""What becomes of backends as they come, fail, recover and leave."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from discovery_tcpproxy.worker.balance import ALGORITHMS
from discovery_tcpproxy.worker.pool import FIRST_DELAY, LAST_RESORT_DELAY, MOST_DELAY, UpstreamPool
from discovery_tcpproxy.worker.upstream import Upstream

CLIENT = "192.0.2.9"


def record(id_: str, host: str = "10.0.0.1", weight: int = 1, *, draining: bool = False) -> dict[str, Any]:
    """A backend as it goes over the wire."""
    return {"id": id_, "host": host, "port": 80, "weight": weight, "draining": draining}


def having(*records: dict[str, Any], balance: str = "roundrobin") -> UpstreamPool:
    """Return a pool whose delays have no random deviation."""
    backends = UpstreamPool(balance, random=lambda: 0.5)
    backends.update(records)
    return backends


def taken(
    backends: UpstreamPool, now: float = 0.0, tried: Iterable[Upstream] = (), *, last_resort: bool = False
) -> Upstream:
    """The next one; there has to be one."""
    backend = backends.select(CLIENT, tuple(tried), now, last_resort=last_resort)
    assert backend is not None
    return backend


def failing(backends: UpstreamPool, now: float) -> Upstream:
    """The next one, which fails at once."""
    backend = taken(backends, now)
    backends.failed(backend, now)
    return backend


def test_an_empty_pool_has_no_next_attempt() -> None:
    backends = having()
    assert backends.select(CLIENT, (), 0.0) is None
    assert backends.select(CLIENT, (), 0.0, last_resort=True) is None
    assert backends.next_attempt_at(0.0) is None
    backends.update([record("a")])
    assert backends.next_attempt_at(5.0) == 5.0
    assert taken(backends, 5.0).id == "a"


def test_update_keeps_a_backend_with_the_same_id_and_address() -> None:
    backends = having(record("a"), record("b"))
    one, other = sorted(backends, key=lambda backend: backend.id)
    one.received = 7
    assert backends.update([record("a", weight=5), record("b", host="10.0.0.2"), record("c")]) == [other]
    assert {backend.id for backend in backends} == {"a", "b", "c"}
    assert one in list(backends)
    assert (one.weight, one.received, one.gone) == (5, 7, False)
    assert other.gone
    assert other not in list(backends)


def test_a_backend_that_returns_while_connections_are_open_is_the_same_object() -> None:
    backends = having(record("a"))
    one = taken(backends)
    backends.connected(one)
    assert backends.update([]) == [one]
    assert backends.select(CLIENT, (), 0.0) is None
    backends.update([record("a")])
    assert list(backends) == [one]
    assert not one.gone
    backends.update([])
    backends.closed(one)
    backends.update([record("a")])
    assert list(backends) != [one]


def test_duplicate_records_are_a_single_backend() -> None:
    backends = having(record("a"), record("a", weight=0))
    assert len(backends) == 1
    assert backends.select(CLIENT, (), 0.0) is None


@pytest.mark.parametrize("told", [{"weight": 0}, {"draining": True}])
def test_a_draining_backend_and_a_backend_of_weight_0_are_not_selected(told: dict[str, Any]) -> None:
    backends = having(record("a"))
    one = taken(backends)
    backends.connected(one)
    backends.update([record("a", **told)])
    assert backends.select(CLIENT, (), 0.0) is None
    assert backends.select(CLIENT, (), 0.0, last_resort=True) is None
    assert backends.next_attempt_at(0.0) is None
    assert not one.gone
    backends.update([record("a")])
    assert taken(backends) is one
    assert one.open == 2


def test_a_failed_backend_is_set_aside_and_then_probed_by_one_connection() -> None:
    backends = having(record("a"), record("b"))
    bad = failing(backends, 0.0)
    for _ in range(10):
        assert taken(backends, 0.5) is not bad
    # Its second is over: among those who come now, one goes there.
    assert [taken(backends, 1.0) for _ in range(10)].count(bad) == 1
    assert backends.connected(bad)
    assert [taken(backends, 1.0) for _ in range(10)].count(bad) == 5


def test_another_connection_probes_after_an_abandoned_probe() -> None:
    backends = having(record("a"), record("b"))
    bad = failing(backends, 0.0)
    assert bad in [taken(backends, 1.0) for _ in range(10)]
    backends.abandoned(bad)
    assert [taken(backends, 1.0) for _ in range(10)].count(bad) == 1


def test_an_earlier_dial_that_is_abandoned_does_not_end_a_probe() -> None:
    backends = having(record("a"), record("b"))
    dialled = [taken(backends) for _ in range(4)]
    bad = dialled[0]
    backends.failed(bad, 0.0)
    assert bad in [taken(backends, 1.0) for _ in range(10)]
    assert dialled.count(bad) == 2
    backends.abandoned(bad)
    assert bad not in [taken(backends, 1.0) for _ in range(10)]
    backends.abandoned(bad)
    assert [taken(backends, 1.0) for _ in range(10)].count(bad) == 1


def test_the_delay_grows_to_a_limit_and_ends_with_success() -> None:
    backends = having(record("a"), record("b"))
    good, bad = taken(backends), taken(backends)
    now = 0.0
    delays = []
    for _ in range(8):
        backends.failed(bad, now)
        delays.append(bad.until - now)
        now = bad.until
        while taken(backends, now) is not bad:
            pass
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert backends.connected(bad)
    backends.failed(taken(backends, now, [good]), now)
    assert bad.until - now == FIRST_DELAY


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 100))
def test_the_delay_is_jittered_and_never_over_the_limit(drawn: float, failures: int) -> None:
    backends = UpstreamPool(random=lambda: drawn)
    backends.update([record("a")])
    one = taken(backends)
    one.failures = failures
    backends.failed(one, 0.0)
    assert 0.8 * FIRST_DELAY <= one.until <= MOST_DELAY


def test_simultaneous_failures_of_a_backend_count_once() -> None:
    backends = having(record("a"))
    for _ in range(50):
        taken(backends)
    for _ in range(50):
        backends.failed(next(iter(backends)), 0.0)
    one = next(iter(backends))
    assert (one.failures, one.connect_failures, one.open, one.dialling) == (1, 50, 0, 0)


def test_if_all_backends_are_set_aside_one_connection_retries_the_first_that_failed() -> None:
    backends = having(record("a"), record("b"))
    first = failing(backends, 0.0)
    second = failing(backends, 0.1)
    assert backends.select(CLIENT, (), 0.1) is None
    assert backends.next_attempt_at(0.1) == LAST_RESORT_DELAY
    assert taken(backends, LAST_RESORT_DELAY) is first
    assert backends.select(CLIENT, (), LAST_RESORT_DELAY) is None
    assert backends.next_attempt_at(LAST_RESORT_DELAY) == 0.1 + LAST_RESORT_DELAY
    backends.failed(first, 0.3)
    assert taken(backends, 0.4) is second
    assert backends.next_attempt_at(0.4) == 0.3 + LAST_RESORT_DELAY
    assert backends.connected(second)
    assert backends.next_attempt_at(0.4) == 0.4


def test_last_resort_selects_a_backend_that_is_set_aside() -> None:
    backends = having(record("a"), record("b"))
    first = failing(backends, 0.0)
    second = failing(backends, 0.0)
    assert taken(backends, 0.0, last_resort=True) is first
    assert taken(backends, 0.0, [first], last_resort=True) is second
    # Both are being probed: a third goes along rather than fail.
    assert taken(backends, 0.0, [first], last_resort=True) is second
    assert backends.select(CLIENT, (first, second), 0.0, last_resort=True) is None
    assert backends.select(CLIENT, (), 0.0) is None


def test_select_omits_backends_that_were_tried() -> None:
    backends = having(record("a"), record("b"), record("c"))
    tried: list[Upstream] = []
    for _ in range(3):
        tried.append(taken(backends, 0.0, tried))
    assert len(set(tried)) == 3
    assert backends.select(CLIENT, tried, 0.0) is None


def test_set_algorithm_changes_the_algorithm_of_a_pool_in_use() -> None:
    backends = having(record("a"), record("b"), balance="source")
    assert len({taken(backends) for _ in range(10)}) == 1
    backends.set_algorithm("roundrobin")
    assert len({taken(backends) for _ in range(10)}) == 2


class PoolMachine(RuleBasedStateMachine):
    """Anything that may happen, in any order, against what has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.dials: list[tuple[Upstream, bool]] = []  # and whether it probes
        self.connections: list[Upstream] = []
        self.doubted: set[Upstream] = set()  # has failed, and not been connected to since

    @initialize(kind=st.sampled_from(ALGORITHMS), drawn=st.floats(0, 1, exclude_max=True))
    def begin(self, kind: str, drawn: float) -> None:
        self.backends = UpstreamPool(kind, random=lambda: drawn)

    @rule(
        records=st.lists(
            st.builds(record, st.sampled_from("abcd"), st.just("10.0.0.1"), st.integers(0, 3), draining=st.booleans()),
            unique_by=lambda each: each["id"],
        )
    )
    def update(self, records: list[dict[str, Any]]) -> None:
        before = set(self.backends)
        left = self.backends.update(records)
        assert set(left) == before - set(self.backends)
        assert [each.id for each in self.backends] == [each["id"] for each in records]
        assert all(backend.gone for backend in left)
        self.doubted -= set(left)  # a backend that returns is not doubted
        self.dials = [(backend, probes and backend not in left) for backend, probes in self.dials]

    @rule(client=st.sampled_from(["10.0.0.1", "10.0.0.2", ""]), last_resort=st.booleans(), data=st.data())
    def dial(self, client: str, last_resort: bool, data: st.DataObject) -> None:
        known = list(self.backends)
        tried = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        may = {backend for backend in known if backend.accepts_new and backend not in tried}
        one = self.backends.select(client, tried, self.now, last_resort=last_resort)
        if one is None:
            assert not (may if last_resort else may - self.doubted)
            return
        assert one in may
        if one in self.doubted and not last_resort:
            assert not any(backend is one and probes for backend, probes in self.dials), "two probe it"
        self.dials.append((one, one in self.doubted and not last_resort))

    @precondition(lambda self: self.dials)
    @rule(data=st.data(), outcome=st.sampled_from(["connected", "failed", "abandoned"]))
    def outcome(self, data: st.DataObject, outcome: str) -> None:
        backend, _ = self.dials.pop(data.draw(st.integers(0, len(self.dials) - 1)))
        if outcome == "connected":
            self.backends.connected(backend)
            self.doubted.discard(backend)
            self.dials = [(each, probes and each is not backend) for each, probes in self.dials]
            self.connections.append(backend)
        elif outcome == "failed":
            self.backends.failed(backend, self.now)
            if not backend.gone:
                self.doubted.add(backend)
        else:
            self.backends.abandoned(backend)

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.backends.closed(self.connections.pop(data.draw(st.integers(0, len(self.connections) - 1))))

    @rule(seconds=st.floats(0.01, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hold(self) -> None:
        """A held client tries again at the time that the pool has told, and not before; it finds a backend then."""
        at = self.backends.next_attempt_at(self.now)
        if at is None or at > self.now:
            assert self.backends.select("10.0.0.1", (), self.now) is None
        if at is not None:
            self.now = at
            one = self.backends.select("10.0.0.1", (), self.now)
            assert one is not None
            self.dials.append((one, one in self.doubted))

    @rule()
    def nothing_spins(self) -> None:
        """Whoever tries again and again at one moment, though every dial fails, is through soon."""
        if self.connections or self.dials:
            return
        for _ in range(len(self.backends)):
            one = self.backends.select("10.0.0.1", (), self.now)
            if one is None:
                break
            self.backends.failed(one, self.now)
            self.doubted.add(one)
        assert self.backends.select("10.0.0.1", (), self.now) is None
        at = self.backends.next_attempt_at(self.now)
        assert at is None or at > self.now

    @invariant()
    def counters_are_right(self) -> None:
        dialled = [backend for backend, _ in self.dials]
        for backend in {*getattr(self, "backends", ()), *dialled, *self.connections}:
            assert backend.dialling == dialled.count(backend)
            assert backend.open == dialled.count(backend) + self.connections.count(backend)


PoolMachine.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


def named(*addresses: str, id_: str = "a") -> dict[str, Any]:
    return record(id_, "a.test") | {"addresses": addresses}


def test_a_host_name_is_a_single_backend_that_keeps_the_preferred_address() -> None:
    """Point 8."""
    backends = having(named("::1", "127.0.0.1"))
    (one,) = backends
    assert (one.address, one.other_addresses) == (("::1", 80), (("127.0.0.1", 80),))
    one.prefer(("127.0.0.1", 80))
    assert (one.address, one.other_addresses) == (("127.0.0.1", 80), (("::1", 80),))
    backends.update([named("::1", "127.0.0.1")])  # told again
    assert list(backends) == [one]
    assert one.address == ("127.0.0.1", 80)
    backends.update([named("10.0.0.1", "127.0.0.1")])
    assert list(backends) == [one]
    assert one.address == ("10.0.0.1", 80)
    one.prefer(("::1", 80))  # which it no longer has
    assert one.address == ("10.0.0.1", 80)


def test_a_host_name_with_other_addresses_is_another_backend() -> None:
    """Point 8."""
    backends = having(named("10.0.0.1"))
    one = taken(backends)
    backends.connected(one)
    assert backends.update([named("10.0.0.2")]) == [one]
    (other,) = backends
    assert (other.address, one.gone, other.gone) == (("10.0.0.2", 80), True, False)
    assert backends.update([named("10.0.0.1")]) == [other]
    assert list(backends) == [one]  # which still has a connection
    assert not one.gone
