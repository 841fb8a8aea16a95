"""Whom the choosers choose: shares, turns, fewest connections, and that source hashing moves nobody without need."""

import math
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery_tcpproxy.worker.balance import ALGORITHMS, Balancer, make_balancer
from discovery_tcpproxy.worker.upstream import Upstream

weights = st.lists(st.integers(1, 256), min_size=1, max_size=12)
few_weights = st.lists(st.integers(1, 9), min_size=2, max_size=8)
CLIENTS = [f"10.{n >> 8}.{n & 255}.7" for n in range(3000)]


def backends(weights: list[int]) -> list[Upstream]:
    """A backend of each weight."""
    return [Upstream(f"b{n}", "192.0.2.1", 1000 + n, weight) for n, weight in enumerate(weights)]


def chooser(kind: str, among: list[Upstream]) -> Balancer:
    """A chooser that knows the backends."""
    chooser = make_balancer(kind)
    for backend in among:
        chooser.add(backend)
    return chooser


def chosen(chooser: Balancer, client: str = "192.0.2.9", tried: tuple[Upstream, ...] = ()) -> Upstream:
    """Return the backend that the balancer selects. There has to be a backend."""
    backend = chooser.select(client, tried)
    assert backend is not None
    return backend


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_select_without_backends_returns_none(kind: str) -> None:
    assert make_balancer(kind).select("192.0.2.9") is None


@pytest.mark.parametrize("kind", ALGORITHMS)
@given(weights=weights, data=st.data())
def test_select_returns_an_available_backend_if_any_exists(kind: str, weights: list[int], data: st.DataObject) -> None:
    known = backends(weights)
    tested = make_balancer(kind)
    may: set[Upstream] = set()
    steps = st.lists(st.tuples(st.sampled_from(["add", "discard", "choose", "release"]), st.sampled_from(known)))
    for step, backend in data.draw(steps):
        if step == "add":
            tested.add(backend)
            may.add(backend)
        elif step == "discard":
            tested.discard(backend)
            may.discard(backend)
        elif step == "release" and backend.open:
            backend.open -= 1
            tested.released(backend)
        else:
            tried = tuple(data.draw(st.sets(st.sampled_from(known))))
            one = tested.select(data.draw(st.sampled_from(CLIENTS)), tried)
            assert (one is None) == (not may - set(tried))
            if one is not None:
                assert one in may - set(tried)
                one.open += 1


@given(weights)
def test_round_robin_selects_each_backend_in_proportion_to_the_weight(weights: list[int]) -> None:
    known = backends(weights)
    robin = chooser("roundrobin", known)
    for _ in range(3):
        counts = Counter(chosen(robin) for _ in range(sum(weights)))
        assert all(abs(counts[backend] - backend.weight) <= 1 for backend in known)


@given(st.integers(1, 50))
def test_round_robin_among_equal_weights_is_a_rotation(number: int) -> None:
    robin = chooser("roundrobin", backends([3] * number))
    turns = [chosen(robin).id for _ in range(3 * number)]
    assert turns == turns[:number] * 3
    assert len(set(turns)) == number


@given(few_weights)
def test_round_robin_has_no_bursts(weights: list[int]) -> None:
    known = backends(weights)
    robin = chooser("roundrobin", known)
    turns = [chosen(robin) for _ in range(3 * sum(weights))]
    for number, backend in enumerate(known):
        # The heaviest other backend has a turn in every stride / weight of virtual time, wherever its first turn falls.
        heaviest_other = max(weights[:number] + weights[number + 1 :])
        assert longest_run(turns, backend) <= math.ceil(backend.weight / heaviest_other) + 1
        # Nor is it away for long: no longer than one turn more of each other.
        at = [n for n, other in enumerate(turns) if other is backend]
        assert all(b - a <= math.ceil(sum(weights) / backend.weight) + len(weights) for a, b in pairwise(at))


def longest_run(turns: list[Upstream], backend: Upstream) -> int:
    """How often at most the backend comes without another in between."""
    longest = run = 0
    for other in turns:
        run = run + 1 if other is backend else 0
        longest = max(longest, run)
    return longest


@given(few_weights, st.data())
def test_round_robin_does_not_favour_a_backend_that_returns(weights: list[int], data: st.DataObject) -> None:
    known = backends(weights)
    robin = chooser("roundrobin", known)
    away = data.draw(st.sampled_from(known))
    robin.discard(away)
    for _ in range(1000):
        chosen(robin)
    robin.add(away)
    turns = [chosen(robin) for _ in range(sum(weights))]
    assert abs(turns.count(away) - away.weight) <= 1


@given(weights, st.lists(st.booleans(), max_size=200), st.randoms())
def test_least_connections_selects_the_fewest_connections_per_weight(
    weights: list[int], opens: list[bool], rng: Random
) -> None:
    known = backends(weights)
    least = chooser("leastconn", known)
    for opening in opens:
        busy = [backend for backend in known if backend.open]
        if opening or not busy:
            one = chosen(least)
            assert one.open / one.weight == min(backend.open / backend.weight for backend in known)
            one.open += 1
        else:
            one = rng.choice(busy)
            one.open -= 1
            least.released(one)


@given(few_weights)
def test_least_connections_takes_turns_among_idle_backends(weights: list[int]) -> None:
    known = backends(weights)
    least = chooser("leastconn", known)
    turns = []
    for _ in range(sum(weights)):
        one = chosen(least)
        one.open += 1
        turns.append(one)
        one.open -= 1
        least.released(one)
    counts = Counter(turns)
    assert all(abs(counts[backend] - backend.weight) <= 1 for backend in known)


def test_least_connections_bounds_outdated_heap_entries() -> None:
    known = backends([1, 1])
    known[1].open = 10**6
    least = chooser("leastconn", known)
    for _ in range(10_000):
        one = chosen(least)
        one.open += 1
        one.open -= 1
        least.released(one)
        least.released(known[1])
    assert len(least._heap) < 200  # type: ignore[attr-defined]


def test_random_of_two_selects_the_less_loaded_backend() -> None:
    one, other = backends([1, 1])
    both = chooser("random", [one, other])
    one.open = 5
    # One draw of eight after the first is the same with probability 1/256.
    turns = Counter(chosen(both).id for _ in range(2000))
    assert turns[other.id] > 1900


def test_random_of_two_draws_by_weight() -> None:
    known = backends([1, 1, 4, 4])
    turns = Counter()  # type: Counter[str]
    both = chooser("random", known)
    for _ in range(4000):
        turns[chosen(both).id] += 1
    assert turns["b2"] + turns["b3"] > 2 * (turns["b0"] + turns["b1"])
    assert turns["b0"] > 50


@given(weights, st.data())
def test_source_moves_only_the_clients_of_a_removed_backend(weights: list[int], data: st.DataObject) -> None:
    known = backends(weights)
    source = chooser("source", known)
    clients = CLIENTS[:200]
    before = {client: chosen(source, client) for client in clients}
    gone = data.draw(st.sampled_from(known))
    falls_to = {client: source.select(client, (gone,)) for client in clients}
    source.discard(gone)
    after = {client: source.select(client) for client in clients}
    assert all(after[client] is before[client] for client in clients if before[client] is not gone)
    # A retry goes where the client would go without that backend.
    assert after == falls_to
    source.add(gone)
    assert {client: chosen(source, client) for client in clients} == before


@pytest.mark.costly
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.integers(0, 10**6))
def test_source_moves_the_share_of_clients_that_a_removed_backend_had(weights: list[int], salt: int) -> None:
    known = [Upstream(f"{salt}-{n}", "192.0.2.1", 80, weight) for n, weight in enumerate(weights)]
    source = chooser("source", known)
    before = [chosen(source, client) for client in CLIENTS]
    share = known[0].weight / sum(weights)
    source.discard(known[0])
    moved = sum(chosen(source, client) is not was for client, was in zip(CLIENTS, before, strict=True))
    # Six standard deviations of drawing so many clients.
    assert abs(moved / len(CLIENTS) - share) < 6 * math.sqrt(share * (1 - share) / len(CLIENTS))


@pytest.mark.costly
@pytest.mark.parametrize("number", [2, 5, 20])
def test_source_moves_about_one_client_in_n(number: int) -> None:
    known = backends([1] * number)
    source = chooser("source", known)
    before = [chosen(source, client) for client in CLIENTS]
    for backend in known:
        source.discard(backend)
        moved = sum(chosen(source, client) is not was for client, was in zip(CLIENTS, before, strict=True))
        assert 0.7 / number < moved / len(CLIENTS) < 1.3 / number
        source.add(backend)
    newcomer = Upstream("new", "192.0.2.200", 80)
    source.add(newcomer)
    after = [chosen(source, client) for client in CLIENTS]
    moved = [now for now, was in zip(after, before, strict=True) if now is not was]
    assert set(moved) == {newcomer}
    assert 0.7 / (number + 1) < len(moved) / len(CLIENTS) < 1.3 / (number + 1)


@given(weights, st.data())
def test_source_moves_clients_only_to_the_backend_whose_weight_increases(
    weights: list[int], data: st.DataObject
) -> None:
    known = backends(weights)
    source = chooser("source", known)
    clients = CLIENTS[:200]
    before = [chosen(source, client) for client in clients]
    heavier = data.draw(st.sampled_from(known))
    heavier.weight += data.draw(st.integers(1, 100))
    source.add(heavier)
    after = [chosen(source, client) for client in clients]
    assert all(now is was or now is heavier for now, was in zip(after, before, strict=True))


@given(st.permutations(range(8)))
def test_source_does_not_depend_on_the_order_of_backends(order: list[int]) -> None:
    known = backends([1, 2, 3, 4, 5, 6, 7, 8])
    source = chooser("source", known)
    other = chooser("source", [known[n] for n in order])
    assert [source.select(client) for client in CLIENTS[:100]] == [other.select(client) for client in CLIENTS[:100]]


def test_source_selects_the_same_backends_on_every_machine() -> None:
    source = chooser("source", backends([1, 2, 3, 4, 5]))
    clients = [*CLIENTS[:12], "2001:db8::1", "2001:db8::2", ""]
    assert "".join(chosen(source, client).id[1] for client in clients) == "231421314333400"


def test_source_selects_the_same_backend_for_an_ipv4_client_through_ipv6() -> None:
    source = chooser("source", backends([1] * 50))
    assert all(source.select(f"::ffff:{client}") is source.select(client) for client in CLIENTS[:100])


def test_source_remembers_a_bounded_number_of_clients() -> None:
    source = chooser("source", backends([1, 1]))
    for n in range(20_000):
        chosen(source, f"2001:db8::{n:x}")
    assert len(source._remembered) <= 8192  # type: ignore[attr-defined]


def test_an_unknown_algorithm_raises_key_error() -> None:
    with pytest.raises(KeyError):
        make_balancer("fastest")


@pytest.mark.parametrize("kind", ["roundrobin", "leastconn", "source"])
def test_add_updates_the_weight_of_a_backend(kind: str) -> None:
    one, other = backends([1, 1])
    tested = chooser(kind, [one, other])
    one.weight = 200
    tested.add(one)
    turns = []
    for client in CLIENTS[:402]:
        turns.append(chosen(tested, client))
        turns[-1].open += 1
    assert turns.count(one) / len(turns) > 0.95
