"""Properties of held removals over arbitrary histories."""

from collections import deque

from holdings import TTL, A, B, C, started
from hypothesis import example, given
from hypothesis import strategies as st

from discovery.consuming.holding import MARGIN
from discovery.registry import Delta, Stale

KEYS = st.sampled_from([A, B, C])

STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("stale"), st.none()),
    st.tuples(st.just("fresh"), st.none()),
    st.tuples(st.just("relist"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 3.0, 20.0])),
)


@given(st.lists(STEPS, max_size=40))
def test_what_is_served_is_always_what_the_registry_has_and_what_is_held(steps: list[tuple[str, object]]) -> None:
    world = started()
    truth = {A, B, C}
    for step, argument in steps:
        if step == "put":
            world.put(str(argument))
            truth.add(str(argument))
        elif step == "delete" and argument in truth:
            world.delete(str(argument))
            truth.discard(str(argument))
        elif step == "stale":
            world.take(Stale("down"))
        elif step == "fresh":
            world.take(Delta(world.revision, {}))
        elif step == "relist":
            world.reset(truth)
        elif step == "wait":
            world.wait(float(str(argument)))
        assert world.served == truth | world.held
        assert not truth & world.held
    world.take(Delta(world.revision, {}))
    for _ in range(3):
        world.wait(TTL + MARGIN + 0.1)
    assert world.served == truth


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["freeze", "thaw", "write", "expire", "return", "wait", "hear"]), st.sampled_from([A, B])
        ),
        max_size=60,
    )
)
@example(
    [("freeze", A), ("expire", A), ("return", A), ("thaw", A), ("freeze", A), ("thaw", A), ("expire", A)]
    + 3 * [("hear", A)]
)
def test_no_living_record_is_lost_by_leases_that_expire_because_the_server_stood_still(
    steps: list[tuple[str, str]],
) -> None:
    """Whatever the owners write meanwhile, however often the server stands still, and however late the watch tells."""
    world = started()
    truth, doomed = {A, B}, set[str]()
    revision = world.revision
    untold: deque[Delta] = deque()
    for step, key in steps:
        if step == "freeze":
            world.take(Stale("it stands still"))
            doomed |= truth
        elif step == "thaw":
            world.take(Delta(world.revision, {}, present=revision))
        elif step == "write" and key in truth:
            revision += 1
            untold.append(Delta(revision, {key: b"v"}, leases={key: TTL}))
        elif step == "expire" and key in doomed & truth:
            revision += 1
            untold.append(Delta(revision, {}, frozenset({key})))
            truth.discard(key)
            doomed.discard(key)
        elif step == "return" and key not in truth:
            revision += 1
            untold.append(Delta(revision, {key: b"v"}, leases={key: TTL}))
            truth.add(key)
        elif step == "hear" and untold:
            world.revision = untold[0].revision
            world.take(untold.popleft())
        elif step == "wait":
            world.wait(0.05)  # less than SETTLE in all
        assert {A, B} <= world.served
