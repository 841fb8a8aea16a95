"""Further lives of a consumer: a restart, another configuration, a successor, a setup that fails, orphans."""

import enum
import socket
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from discovery.plugin import Consumer, PluginConfig
from discovery.testing import process
from discovery.testing.clauses import difference, expect
from discovery.testing.consumers.gentle import Gentle, outcome
from discovery.testing.consumers.harsh import harsh
from discovery.testing.consumers.life import CALL_SECONDS, Life, call
from discovery.testing.consumers.place import ConsumerPlace
from discovery.testing.consumers.session import Session
from discovery.testing.consumers.states import Named
from discovery.testing.recorder import failing_writes
from discovery.testing.watching import HangError

HAND_OVER_SECONDS = 10.0
"""Seconds that the core gives a consumer to hand over its sockets."""
_FAILED_SETUPS = 3
"""Setups that fail in turn: what a library creates once is there after the first."""
_LEFT_SECONDS = 0.5
"""Seconds for what a failed setup has begun to be gone."""
_ALTERNATIVES = 4
"""Other configurations that are tried until one has another effect."""


@dataclass
class Reconfigured:
    """A consumer that was asked to take another configuration in place."""

    change: str
    old: object
    """The effect with the configuration before."""
    new: object
    """The effect of an instance that began with the other configuration."""
    taken: object = None
    at_once: object = None
    after_apply: object = None


@dataclass
class Restart:
    """The observations after a restart in the same directories."""

    expected: object
    effect: object = None
    left: object = None
    begun: object = None
    """The effect that the instance before has left, and the effect after the setup, of a consumer that is not resident.
    """


def restart(session: Session, first: Gentle) -> Restart:
    """Leave another state behind, begin again in the same directories, and return what was seen."""
    if session.is_very_slow:
        again = session.kept(session.contract, harsh, first)
        left = again.begun if first.ending.outlasting is None else first.ending.outlasting[0]
        return Restart(again.expected[again.first], again.start, left, again.begun)
    observed = Restart(first.worlds["one"])
    name = "twins" if "twins" in first.worlds else "snapshot 1"

    async def before(life: Life) -> None:
        await life.apply(session.states[name])
        observed.left = life.world()

    async def after(life: Life) -> None:
        observed.begun = life.world() if life.consumer.resident is False else observed.left
        await life.apply(session.states["one"])
        observed.effect = life.world()

    session.life(before, wiped=False)
    session.life(after, wiped=False)
    return observed


def a_restart_takes_over_what_is_there(seen: Restart) -> None:
    """A daemon that starts again finds the files of the daemon before: what is no longer registered has to go."""
    expect(seen.effect == seen.expected, "the effect of the snapshot alone", difference(seen.effect, seen.expected))


def a_restart_leaves_the_effect_until_its_first_apply(seen: Restart) -> None:
    """The registry may be away when a daemon starts: until the first apply whatever is there goes on to be used."""
    wanted = "the effect of the instance before, after the setup of a consumer that is not resident"
    expect(seen.begun == seen.left, wanted, difference(seen.begun, seen.left))


def reconfigurations(session: Session, first: Gentle) -> list[Reconfigured]:
    """Ask a consumer to take other configurations in place. Empty if the consumer always restarts."""
    contract = session.contract
    if contract.consumer.reconfigure is Consumer.reconfigure:
        return []
    seen: list[Reconfigured] = []
    name, old = first.usual
    others = [*alternatives(contract.consumer.Config, contract.config, contract.other_configs)]
    present = contract.consumer.Config.model_validate(contract.config)
    for change, other in others[1:3] if session.is_slow else others:
        effects: list[object] = []

        async def with_other(life: Life, change: str = change, effects: list[object] = effects) -> None:
            await life.apply(session.states[name])
            effects.append(life.world())
            if session.is_very_slow and effects[0] != old:  # the way back spares another life
                back = Reconfigured(f"{change}, undone", old=effects[0], new=old)
                seen.append(await _reconfigured(life, session.states[name], present, back))

        try:
            with _configured(contract, other):
                session.life(with_other)
        except HangError:
            raise
        except Exception:
            if effects:  # the other configuration has had an effect: it is the consumer that fails afterwards
                raise
            continue  # no configuration for this machine, such as a port in use
        if effects[0] == old and change != "nothing":
            continue
        if not session.is_very_slow:
            seen.append(_in_a_life(session, change, other, effects[0], first))
        if change != "nothing" and (session.is_slow or len(seen) > 2):
            break
    return seen


@contextmanager
def _configured(contract: ConsumerPlace, config: Mapping[str, Any]) -> Iterator[None]:
    """Let `contract` have another configuration for a block: a class variable, for this instance alone."""
    own = vars(contract).get("config")
    setattr(contract, "config", config)  # noqa: B010
    try:
        yield
    finally:
        if own is not None:
            setattr(contract, "config", own)  # noqa: B010
        else:
            del contract.__dict__["config"]


def _in_a_life(session: Session, change: str, other: Mapping[str, Any], new: object, first: Gentle) -> Reconfigured:
    """Live a life in which the consumer is asked to take the configuration `other`, whose effect is `new`."""
    found: list[Reconfigured] = []
    state = session.states[first.usual[0]]
    config = session.contract.consumer.Config.model_validate(other)

    async def script(life: Life) -> None:
        await life.apply(state)
        found.append(await _reconfigured(life, state, config, Reconfigured(change, old=first.usual[1], new=new)))

    session.life(script)
    return found[0]


async def _reconfigured(life: Life, state: Named, config: PluginConfig, seen: Reconfigured) -> Reconfigured:
    """Ask a consumer at `state` to take `config`, apply the same state again, and add to `seen` what was seen."""
    seen.taken = await outcome("reconfigure", CALL_SECONDS, life.consumer.reconfigure, config)
    seen.at_once = life.world()
    await life.apply(state, operator_request=True)
    seen.after_apply = life.world()
    return seen


def a_new_configuration_is_adopted_or_refused(seen: list[Reconfigured]) -> None:
    """After True the core goes on with the instance, and takes the new configuration for applied; after False the core
    restarts the instance, which has to end as the configuration before says."""
    for each in seen:
        expect(isinstance(each.taken, bool), "True or False from reconfigure", f"{each.taken!r} for {each.change}")
        if each.taken is True:
            adopted = each.after_apply == each.new or _has_all(each.after_apply, each.new, each.old)
            wanted = f"the effect of the new configuration ({each.change}) after True and an apply"
            expect(adopted, wanted, difference(each.after_apply, each.new))
        else:
            wanted = f"the effect as before, after False for {each.change}"
            expect(each.at_once == each.old, wanted, difference(each.at_once, each.old))
            expect(each.after_apply == each.old, wanted, difference(each.after_apply, each.old))


def _has_all(effect: object, new: object, old: object) -> bool:
    """Return True if the files `effect` have everything of `new`; files of `old` may remain, unless new is old."""
    if not (isinstance(effect, dict) and isinstance(new, dict) and isinstance(old, dict)) or effect == old:
        return False
    return all(effect.get(path) == text for path, text in new.items())


def alternatives(
    kind: type[PluginConfig], config: Mapping[str, Any], given: Any
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the same configuration, and other valid ones, each with a description of the change."""
    yield "nothing", config
    for number, other in enumerate(given):
        yield f"other_configs[{number}]", other
    tried = 0
    present = kind.model_validate(config)
    for name, info in () if given else kind.model_fields.items():
        key = info.alias or name
        for value in _other_values(info.annotation, getattr(present, name)):
            with suppress(Exception):  # not valid
                kind.model_validate({**config, key: value})
                tried += 1
                if tried <= _ALTERNATIVES:
                    yield f"{key} = {value!r}", {**config, key: value}
                break


def _other_values(annotation: object, value: object) -> list[object]:
    if get_origin(annotation) is types.UnionType:
        annotation = next((each for each in get_args(annotation) if each is not type(None)), None)
    if get_origin(annotation) is Literal:
        return [each for each in get_args(annotation) if each != value]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [each.value for each in annotation if each != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1, value * 2]
    if isinstance(value, str) and annotation is str and "/" not in value and ":" not in value:
        return [f"{value}x", f"x{value}"]
    return []


@dataclass
class Succession:
    """The observations of a consumer that handed its sockets over, and of its successor."""

    given: object
    faults: list[str] = field(default_factory=list)
    expected: object = None
    effect: object = None
    orphans: object = None


def succession(session: Session, first: Gentle) -> Succession | None:
    """Hand over to a successor. None if the consumer has nothing to hand over."""
    contract = session.contract
    if contract.consumer.hand_over is Consumer.hand_over:
        return None
    name, expected = first.usual
    observed = Succession(None, expected=expected)
    copies: list[socket.socket] = []

    async def predecessor(life: Life) -> None:
        await life.apply(session.states[name])
        given = observed.given = await call("hand_over", HAND_OVER_SECONDS, life.consumer.hand_over)
        for each in given if isinstance(given, tuple) else ():
            observed.faults += _socket_faults(each)
            if isinstance(each, socket.socket) and each.fileno() >= 0:
                copies.append(each.dup())

    async def successor(life: Life) -> None:
        await life.apply(session.states[name])
        observed.effect = life.world()

    try:
        session.life(predecessor, leaves=True)
        for each in observed.given if isinstance(observed.given, tuple) else ():
            if isinstance(each, socket.socket):
                each.close()
        with contract.inheriting(tuple(copies)):
            session.life(successor, wiped=False, leaves=True)
    finally:
        for copy in copies:
            copy.close()
    return observed


def sockets_are_handed_over_open(seen: Succession) -> None:
    """The core passes the sockets to the successor's process, and clients connect meanwhile."""
    expect(isinstance(seen.given, tuple), "a tuple of sockets from hand_over", seen.given)
    expect(not seen.faults, "listening sockets", seen.faults)


def a_successor_has_the_same_effect(seen: Succession) -> None:
    """A successor gets the sockets of its predecessor in `context.inherited`, and the same snapshot."""
    expect(seen.effect == seen.expected, "the effect of the predecessor", difference(seen.effect, seen.expected))


def _socket_faults(each: object) -> list[str]:
    if not isinstance(each, socket.socket):
        return [f"{each!r} is not a socket"]
    if each.fileno() < 0:
        return ["a socket is closed"]
    if each.type == socket.SOCK_STREAM and not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return [f"{each!r} does not listen"]
    return []


async def teardown_after_failed_setup(make: Callable[[Path], Any]) -> None:
    """Let a setup fail, and tear down, as often as a full disk makes the core try; then set up where there is room.

    Raises BrokenError if each failed setup leaves something behind.
    """
    with tempfile.TemporaryDirectory() as directory:
        left: list[dict[str, list[str]]] = []
        for _ in range(_FAILED_SETUPS):
            before = process.Holdings.now()
            if not await _fails(make(Path(directory))):
                return
            left.append(process.left_since(before, 0.0 if left and not left[-1] else _LEFT_SECONDS))
        expect(not all(left), "nothing that is left by each setup that has failed", left[-1])
        again = make(Path(directory))
        await call("setup, after setups that have failed,", CALL_SECONDS, again.setup)
        await call("teardown", CALL_SECONDS, again.teardown)


async def _fails(plugin: Any) -> bool:
    """Set `plugin` up while no file can be written, and tear it down. Return True if the setup has failed."""
    raised = False
    with failing_writes():
        try:
            await call("setup", CALL_SECONDS, plugin.setup)
        except HangError:
            raise
        except Exception:  # noqa: BLE001 - the core tries again after any exception
            raised = True
    await call("teardown after a failed setup", CALL_SECONDS, plugin.teardown)
    return raised


@contextmanager
def foreign_directory() -> Iterator[Path]:
    """Make a directory of another plugin: files that look like those of a daemon, and are none."""
    with tempfile.TemporaryDirectory() as top:
        directory = Path(top, "run")
        directory.mkdir()
        for name, text in (("pid", "x"), ("lock", ""), ("state.json", "{"), ("socket", ""), ("config", "\0")):
            (directory / name).write_text(text)
        yield directory
