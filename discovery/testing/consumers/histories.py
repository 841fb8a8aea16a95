"""A life of a consumer under the core's own runner, through recorded histories of a registry with faults."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from discovery.model import State
from discovery.testing.clauses import difference, expect
from discovery.testing.consumers.life import Life
from discovery.testing.consumers.session import Session
from discovery.testing.running import RecordedHistory, running_consumer
from discovery.testing.watching import limited, run_loop

_HISTORY_SECONDS = 30.0
"""Seconds for a history: its steps take a fraction of a second, and the wait for its end 10 s at most."""
_OF_SLOW = ("reset",)
"""The histories of a consumer whose `apply` takes long."""
_LONGEST_APPLY = 0.3
"""Seconds of an apply from which on no history is played, so that the contract takes less than 20 s."""


@dataclass
class Replayed:
    """The effect at the end of each history, or the reason why the end was not reached."""

    expected: object = None
    """The effect of the same end, in a registry that had no other state before."""
    effects: dict[str, object] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def replay(session: Session) -> Replayed | None:
    """Play the recorded histories on an instance, and return what was seen. None for a consumer that is too slow."""
    if session.apply_seconds > _LONGEST_APPLY:
        return None
    observed = Replayed()
    histories = [each for each in _histories(session) if not session.is_slow or each.name in _OF_SLOW]

    async def play() -> None:
        async with _running(session) as plugin:
            for history in histories:
                with limited(f"the history {history.name!r}", _HISTORY_SECONDS):
                    try:
                        await history.play(plugin)
                    except AssertionError as error:
                        observed.faults[history.name] = str(error)
                        return
                observed.effects[history.name] = Life.world_in(session.contract, plugin.run_dir)

    async def begin() -> None:
        async with _running(session) as plugin:
            with limited("the end of a history", _HISTORY_SECONDS), suppress(AssertionError):
                plugin.put(*histories[0].end())
                await plugin.applied()
                observed.expected = Life.world_in(session.contract, plugin.run_dir)

    for script in (play, begin):
        session.wipe()
        run_loop(script())
    session.wipe()
    return observed


def every_recorded_history_ends_with_the_same_effect(seen: Replayed) -> None:
    """Bursts, outages, compactions, lost leases and lost stores happen: the effect is that of the last state alone.

    The consumer runs as in the daemon, with its thread, retries and health. `RecordedHistory` has the histories.
    """
    expect(not seen.faults, "the end of each recorded history to be applied", seen.faults)
    for name, effect in seen.effects.items():
        wanted = f"after the history {name!r} the effect of its last state alone"
        expect(effect == seen.expected, wanted, difference(effect, seen.expected))


def _histories(session: Session) -> tuple[RecordedHistory, ...]:
    """Return the histories, with backends like those of the contract, which its consumer follows."""
    base = next(session.states["one"].snapshot.backends())
    last = (
        base,
        replace(base, id=f"{base.id}-2", port=base.port % 65535 + 1, weight=2, labels={**base.labels, "zone": "x"}),
        replace(base, id=f"{base.id}-3", host="127.0.0.3", state=State.DRAINING),
    )
    return RecordedHistory.all(base.service, last)


def _running(session: Session) -> Any:
    contract, kind = session.contract, session.contract.consumer

    class Made(kind):  # type: ignore[misc, valid-type]
        """Instances as the contract makes them, which its `world` may know."""

        def __new__(cls, _: object, context: Any) -> Any:
            contract.listen(context.request_apply)
            return contract._make(context.run_dir, context.state_dir)

    config = kind.Config.model_validate(contract.config)
    return running_consumer(Made, config, session.run_dir, session.state_dir)
