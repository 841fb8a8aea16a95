"""A HAProxy whose operator allows access to a stats socket alone: backends are put into the slots of the file."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from discovery import ApplyError, Health, Sample
from discovery.toolkit import write_atomically
from discovery_haproxy.deployment.checking import Checker
from discovery_haproxy.deployment.install import install, stage_all
from discovery_haproxy.deployment.vantage import Vantage, external_vantage
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.external import ExternalConfig
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.program.log_drops import LogDrops
from discovery_haproxy.rendering.render import Rendered
from discovery_haproxy.runtime_api.connection import Connection, LevelError, RuntimeApiError, Worker, connect
from discovery_haproxy.runtime_api.execution import Changes, once_moved, send
from discovery_haproxy.runtime_api.planner import Plan, Remove, ServerKey, Step
from discovery_haproxy.runtime_api.slots import Place, Slot, fill, is_filled, parse_slots, states_after
from discovery_haproxy.text.configuration import Configuration, parse

_STATES_MODE = 0o644
"""Mode of the state file: HAProxy may run as another user, and addresses are no secret."""
_STATES_BEGIN = "1\n"
"""Version of the format of a state file."""

Wanted = dict[str, dict[Place, int]]
"""Weights of the wanted backends by their places, for each section."""


class Slots:
    """The slots of an external HAProxy. Implements `Target`.

    The file in the run directory lists what is wanted, for people and for the preview. HAProxy never reads that file.
    """

    running = True
    """An external HAProxy is taken to run: only a command shows whether it does."""
    reachable = True
    """True: the administrator of an external HAProxy is responsible for its socket."""

    def __init__(
        self, config: ExternalConfig, listing: Path, log: FilteringBoundLogger, request_apply: Callable[[], None]
    ) -> None:
        """Store the arguments. `request_apply` asks for a deployment."""
        assert config.stats_socket is not None  # noqa: S101 - checked by the validation
        self.path = listing
        self.live_generation: str | None = None
        self.log_drops = LogDrops(log)
        self._socket = config.stats_socket
        self._state_file = config.state_file
        self._log = log
        self._request_apply = request_apply
        self._lock = asyncio.Lock()
        """Held during a deployment, and while the slots are looked at."""
        self._prepared: Rendered | None = None
        self._wanted: Wanted = {}
        self._waiting: dict[str, int] = {}
        """Number of backends without a slot, by section."""
        self._problems: tuple[str, ...] = ()
        self._saved: object = None
        """Facts of the slots that the state file has."""
        self._changes = 0

    async def open(self) -> None:
        """Read which sections an earlier daemon has filled. The first deployment looks at the slots."""
        with suppress(OSError):
            self._wanted = {name: {} for name in parse(self.path.read_text(errors="replace")).backends}

    def verify(self, config: HAProxyConfig) -> None:
        """Do nothing: each health check looks at the slots."""

    async def prepare(self, rendered: Rendered) -> None:
        """Write the list of what is wanted beside the present list. Raises ApplyError or OSError."""
        self._prepared = rendered
        await asyncio.to_thread(stage_all, self.path, rendered.data, {}, 0o600, durable=False)

    def needs_check(self, rendered: Rendered) -> bool:
        """Report that HAProxy checks the commands itself."""
        return False

    async def deploy(self, generation: str, checker: Checker, unchecked: Rendered | None) -> None:
        """Put the backends into the slots. Raises ApplyError."""
        async with self._lock:
            assert self._prepared is not None  # noqa: S101 - `prepare` comes first
            wanted = _wanted(self._prepared)
            self.live_generation = None
            await install(self.path, (), lambda: self._fill(wanted), durable=False)
            self._wanted, self.live_generation = wanted, generation

    def vantage(self) -> Vantage:
        """Return the process behind the socket."""
        listener = ControlSocket(self._socket, master=False).listener_pid()
        return external_vantage({listener} if listener is not None else ())

    def metrics(self) -> Iterable[Sample]:
        """Return the number of changes, and the number of backends without a slot."""
        help_ = "Configurations made live, by the way they took"
        yield Sample("changes", self._changes, {"way": "runtime"}, help=help_)
        waiting = sum(self._waiting.values())
        yield Sample("backends_without_slot", waiting, kind="gauge", help="Backends for which HAProxy has no slot")

    def inspect(self) -> Mapping[str, Any]:
        """Return the number of backends without a slot, by section."""
        return {"backends_without_slot": {name: count for name, count in self._waiting.items() if count}}

    async def health(self) -> Health:
        """Report whether HAProxy answers and has enough slots. Request a deployment if the slots are not as wanted."""
        if self._lock.locked():
            return Health(detail="the slots are being filled")
        async with self._lock:
            try:
                _, slots = await self._look()
            except LevelError:
                return Health(ok=False, detail=self._too_low_a_level)
            except RuntimeApiError as error:
                return Health(ok=False, detail=f"HAProxy does not answer: {error}")
            if self.live_generation is not None and not self._are_filled(slots):
                self._log.warning("the slots were changed by another program, or by a reload, and are filled again")
                self.live_generation = None
                self._request_apply()
            elif self.live_generation is not None:
                await asyncio.to_thread(self._save, [slot for name in self._wanted for slot in slots.get(name, ())])
        return Health(ok=not self._problems, detail="; ".join(self._problems))

    @property
    def verify_seconds(self) -> float | None:
        """None: that is not measured."""
        return None

    @property
    def statistics(self) -> ControlSocket | None:
        """None: the servers of the slots have the names of the operator."""
        return None

    async def hand_over(self) -> None:
        """Leave the slots as they are."""

    async def close(self) -> None:
        """Leave the slots as they are."""

    @property
    def _too_low_a_level(self) -> str:
        return f"{self._socket} lets discovery only read: add `level admin` to its `stats socket` line"

    async def _look(self) -> tuple[Worker, dict[str, list[Slot]]]:
        async with self._connect() as connection:
            return await connection.worker(), parse_slots(await connection.ask("show servers state"))

    def _connect(self) -> AbstractAsyncContextManager[Connection]:
        return connect(self._socket)

    def _are_filled(self, slots: Mapping[str, list[Slot]]) -> bool:
        """Report whether the slots have the wanted backends, as far as the number of slots allows."""
        return all(is_filled(slots.get(name, []), wanted) for name, wanted in self._wanted.items())

    async def _fill(self, wanted: Wanted) -> None:
        try:
            await self._fill_slots(wanted)
        except LevelError:
            raise ApplyError(self._too_low_a_level) from None
        except RuntimeApiError as error:
            raise ApplyError(f"the slots cannot be filled: {error}") from None

    async def _fill_slots(self, wanted: Wanted) -> None:
        worker, slots = await self._look()
        # A service that is gone leaves its slots.
        wanted = {**{name: {} for name in self._wanted if name in slots}, **wanted}
        steps: list[Step] = []
        up: set[ServerKey] = set()
        for name, places in wanted.items():
            filling = fill(slots.get(name, []), places)
            steps += filling.steps
            up |= filling.up
            self._waiting[name] = filling.waiting
        self._tell({name: slots.get(name, []) for name in wanted}, wanted)
        own = [slot for name in wanted for slot in slots.get(name, [])]
        await asyncio.to_thread(self._write_states, states_after(own, steps, up))
        steps.sort(key=lambda step: isinstance(step, Remove))  # a section never lacks a server meanwhile
        if steps:
            plan = Plan(Configuration(()), tuple(steps), "")
            await send(self._connect, Changes(plan, worker, frozenset(up)), 0.0)
            self._changes += 1
        self._wanted = wanted
        _, slots = await once_moved(self._look, worker.version, lambda found: self._are_filled(found[1]))
        if not self._are_filled(slots):
            raise RuntimeApiError("after the commands the slots are not as wanted")
        await asyncio.to_thread(self._save, [slot for name in wanted for slot in slots.get(name, ())])

    def _tell(self, slots: Mapping[str, list[Slot]], wanted: Wanted) -> None:
        """Log each new problem with the slots."""
        problems = []
        for name, found in slots.items():
            if not found:
                problems.append(f"HAProxy has no backend {name!r} with slots: add `{_example(name)}`")
            elif count := self._waiting[name]:
                problems.append(
                    f"service {name!r} has {len(wanted[name])} backends, and HAProxy {len(found)} slots: {count} wait"
                )
            elif self._state_file is not None and not all(slot.is_restorable for slot in found):
                problems.append(
                    f"a reload empties the slots of {name!r} for a moment, since HAProxy restores no address in the"
                    f" place of an address: write `{_example(name)}`"
                )
        for problem in problems:
            if problem not in self._problems:
                self._log.warning(problem)
        self._problems = tuple(problems)

    def _save(self, slots: list[Slot]) -> None:
        """Write the slots as they are into the state file, if they have changed."""
        facts = [slot.facts for slot in slots]
        if facts != self._saved:
            self._write_states(states_after(slots, (), ()))
            self._saved = facts

    def _write_states(self, rows: list[str]) -> None:
        """Write the state file, from which a reload by anyone restores the slots. Raises ApplyError."""
        self._saved = None
        if self._state_file is None:
            return
        try:
            states = _STATES_BEGIN + "".join(f"{row}\n" for row in rows)
            write_atomically(self._state_file, states.encode(), _STATES_MODE)
        except OSError as error:
            raise ApplyError(
                f"{self._state_file}, of external.state_file, cannot be written: {error.strerror}"
            ) from None


def _wanted(rendered: Rendered) -> Wanted:
    return {
        section.name: {
            (ip_address(server.host), server.port): server.weight for server in section.backends if server.usable
        }
        for section in rendered.sections.services
    }


def _example(name: str) -> str:
    return f"server-template {name} 10 slot.invalid:80 init-addr last,127.0.0.1 check disabled"
