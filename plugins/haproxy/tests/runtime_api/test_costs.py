"""Estimates of the two ways, and what is learnt from measurements."""

import pytest

from discovery_haproxy.runtime_api.costs import FIRST_COSTS, addition_seconds, is_reload_better, reload_seconds


@pytest.mark.parametrize(
    ("sizes", "measured"), [((10,), 0.057), ((1_000,), 0.081), ((10_000,), 0.835), ((10,) * 1_000, 0.27)]
)
def test_the_first_estimate_of_a_reload_is_near_what_was_measured(sizes: tuple[int, ...], measured: float) -> None:
    assert reload_seconds(sizes) == pytest.approx(measured, rel=0.4)


@pytest.mark.parametrize(("servers", "measured"), [(1_000, 1 / 24_000), (10_000, 1 / 950)])
def test_the_first_estimate_of_an_addition_is_near_what_was_measured(servers: int, measured: float) -> None:
    assert addition_seconds(servers, 0) == pytest.approx(measured, rel=0.4)


def test_a_machine_is_learnt_from_its_reloads_and_commands() -> None:
    costs = FIRST_COSTS
    for _ in range(6):
        costs = costs.after_reload([1_000], 3 * reload_seconds([1_000])).after_commands(0.1, 0.05)
    assert costs.reload == pytest.approx(3, rel=0.05)
    assert costs.commands == pytest.approx(0.5, rel=0.05)


def test_short_commands_teach_nothing_and_an_odd_measurement_is_bounded() -> None:
    assert FIRST_COSTS.after_commands(0.0001, 1.0) == FIRST_COSTS
    assert FIRST_COSTS.after_reload([10], 1_000.0).reload == 20


@pytest.mark.parametrize(
    ("commands", "better"), [(0.9, False), (1.1, True), (0.2 * 5 + 0.01, True)], ids=["within a second", "more", "five"]
)
def test_commands_are_preferred_to_a_faster_reload_up_to_a_limit(commands: float, better: bool) -> None:
    assert is_reload_better(commands, 0.0, [10], FIRST_COSTS) is better
    assert is_reload_better(commands, 0.0, [100_000], FIRST_COSTS) is False
