"""Drift is told from what an operator has changed."""

from collections.abc import Mapping

import pytest

from discovery_haproxy.runtime_api.drift import Comparison, OperatorChange, by_section, compare, compare_all
from discovery_haproxy.runtime_api.planner import Move, Plan, Reload, Revive, SetWeight, make_plan
from discovery_haproxy.runtime_api.read_back import digest, parse_states
from discovery_haproxy.text.configuration import Configuration, Section, parse

A = "server a 10.0.0.1:80 id 11 weight 3 check"
HEADER = "1\n# be_id be_name srv_id srv_name ...\n"


def row(
    name: str = "a",
    number: int = 11,
    address: str = "10.0.0.1",
    port: int = 80,
    weight: int = 3,
    initial: int = 3,
    administrative: int = 0,
    check: int = 6,
    changing: str = "2",
) -> str:
    """Return a row of `show servers state`. `changing` stands in the columns that change by themselves."""
    return (
        f"3 web {number} {name} {address} {changing} {administrative} {weight} {initial} {changing} {changing}"
        f" {changing} {changing} {check} 0 0 0 - {port} - 0 0 - - 0\n"
    )


def section(*servers: str) -> Section:
    return parse("backend web\n" + "".join(f"    {server}\n" for server in servers)).backends["web"]


def compared(
    wanted: Section, *rows: str, earlier: Section | None = None, new_worker: bool = False, removed: bool = False
) -> Comparison:
    live = by_section(parse_states(HEADER + "".join(rows))).get("web", {})
    waiting = {("web", "gone")} if removed else set()
    return compare(wanted, live, waiting, earlier, new_worker=new_worker)


def told(comparison: Comparison) -> list[str]:
    return [f"{drift.kind}: {drift}" for drift in comparison.drifts]


def changed(comparison: Comparison) -> Mapping[str, str]:
    return {key[1]: str(change) for key, change in comparison.operator.items()}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row()], []),
        ([row(changing="1")], []),
        ([row(check=15)], []),
        ([], ["membership: web/a is missing"]),
        ([row(), row("x", 12)], ["membership: web/x is there, at 10.0.0.1 port 80"]),
        ([row(port=82)], ["address: web/a is at 10.0.0.1 port 82, not at 10.0.0.1 port 80"]),
        ([row(address="2001:db8::1")], ["address: web/a is at 2001:db8::1 port 80, not at 10.0.0.1 port 80"]),
        ([row(address="-")], ["address: web/a is at - port 80, not at 10.0.0.1 port 80"]),
        ([row(number=17)], ["id: web/a has the id 17, not 11"]),
        ([row(check=0)], ["check: web/a is not checked"]),
    ],
)
def test_membership_addresses_ids_and_checks_are_compared(rows: list[str], expected: list[str]) -> None:
    comparison = compared(section(A), *rows)
    assert told(comparison) == expected
    assert not comparison.operator


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        (row(administrative=1, check=14), "in maintenance"),
        (row(administrative=8), "draining"),
        (row(weight=9), "weight 9"),
        (row(weight=0), "weight 0"),
        (row(check=2), "without checks"),
        (row(administrative=9, weight=9), "in maintenance, draining, weight 9"),
    ],
)
def test_what_an_operator_has_set_is_no_drift(live: str, expected: str) -> None:
    for wanted in (section(A), section(A + " agent-check")):  # HAProxy alone understands the second
        comparison = compared(wanted, live)
        assert not comparison.drifts
        if "weight" not in expected or wanted == section(A):
            assert changed(comparison) == {"a": expected}


def test_a_server_that_the_configuration_keeps_in_maintenance_is_nobodys_change() -> None:
    comparison = compared(section("server a 10.0.0.1:80 disabled"), row(administrative=5, weight=1, check=8))
    assert not comparison.drifts
    assert not comparison.operator


def test_a_weight_that_discovery_can_have_left_is_drift() -> None:
    lost = row(weight=1, initial=1)
    assert told(compared(section(A), lost, new_worker=True)) == ["weight: web/a has the weight 1, not 3"]
    assert changed(compared(section(A), lost)) == {"a": "weight 1"}
    # After a restart of the daemon, the file before the last change tells.
    earlier = section(A.replace("weight 3", "weight 1"))
    assert told(compared(section(A), row(weight=1), earlier=earlier)) == ["weight: web/a has the weight 1, not 3"]
    assert changed(compared(section(A), row(weight=2), earlier=earlier, new_worker=True)) == {"a": "weight 2"}


def test_maintenance_that_an_interrupted_change_can_have_left_is_drift() -> None:
    in_maintenance = row(administrative=1, check=2)
    assert told(compared(section(A), in_maintenance, earlier=section())) == ["state: web/a is in maintenance"]
    assert changed(compared(section(A), in_maintenance, earlier=section(A))) == {"a": "in maintenance, without checks"}
    later = row(administrative=1, check=14)  # of a server that was in service
    assert changed(compared(section(A), later, earlier=section())) == {"a": "in maintenance"}


def test_removed_servers_wait_for_their_deletion() -> None:
    gone = row("gone", 12, administrative=1)
    assert not compared(section(A), row(), gone, removed=True).drifts
    assert told(compared(section(A), row(), gone)) == ["membership: web/gone is there, at 10.0.0.1 port 80"]
    whole = Configuration((section(A),))
    [comparison] = compare_all(whole, None, by_section(parse_states(HEADER + row() + gone)))
    assert not comparison.drifts


def repair(wanted: Section, *rows: str, earlier: Section | None = None) -> Plan | Reload:
    """Return the plan from the live servers to the wanted servers."""
    comparison = compared(wanted, *rows, earlier=earlier, new_worker=True)
    return make_plan(Configuration((comparison.actual,)), Configuration((wanted,)), (2, 6), comparison.leftover)


def test_drift_is_repaired_by_the_steps_that_lead_from_the_live_to_the_wanted_servers() -> None:
    plan = repair(
        section(A, A.replace("server a", "server b").replace("11", "12"), A.replace("server a", "server c")),
        row(port=82, weight=1, initial=1),
        row("x", 13),
        row("c", 11, weight=9, administrative=8),
    )
    assert isinstance(plan, Plan)
    assert [(type(step).__name__, step.key[1]) for step in plan.steps] == [
        ("Move", "a"),
        ("SetWeight", "a"),
        ("Add", "b"),
        ("Remove", "x"),
    ]
    interrupted = repair(section(A), row(administrative=1), earlier=section())
    assert isinstance(interrupted, Plan)
    assert [type(step) for step in interrupted.steps] == [Revive]


def test_the_weight_of_an_operator_survives_the_repair_of_an_address() -> None:
    plan = repair(section(A), row(port=82, weight=9))
    assert isinstance(plan, Plan)
    assert [type(step) for step in plan.steps] == [Move]


@pytest.mark.parametrize("rows", [[row(number=17)], [row(check=0)]])
def test_drift_that_the_runtime_api_cannot_repair_needs_a_reload(rows: list[str]) -> None:
    assert isinstance(repair(section(A), *rows), Reload)


def test_a_weight_under_a_static_balance_needs_a_reload() -> None:
    assert isinstance(repair(section("balance static-rr", A), row(weight=1, initial=1)), Reload)
    assert any(isinstance(step, SetWeight) for step in repair(section(A), row(weight=1, initial=1)).steps)  # type: ignore[union-attr]


def test_the_digest_of_an_answer_leaves_out_what_changes_by_itself() -> None:
    assert digest(HEADER + row()) == digest(HEADER + row(changing="77"))
    for other in (row(port=81), row(weight=4), row(administrative=1), row(address="10.0.0.2"), row(check=2), row("b")):
        assert digest(HEADER + row()) != digest(HEADER + other)


def test_changes_of_an_operator_are_joined_and_subtracted() -> None:
    before, now = OperatorChange(maintenance=True, weight=9), OperatorChange(draining=True, weight=7)
    assert before.without(now) == OperatorChange(maintenance=True)
    assert before.joined(now) == OperatorChange(maintenance=True, draining=True, weight=7)
    assert before.without(before) == OperatorChange()
