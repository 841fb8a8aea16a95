"""`discovery register ... -- COMMAND`: runs the command, and registers its backend while the command runs.

The command runs on if the registration fails. The registration ends with the command.
"""

import asyncio
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from discovery.cli.child import CannotRunError, Child, Signals
from discovery.cli.console import note
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import close_registry, registry_at, start_logging
from discovery.providing.registration import Registration, Wanted, exclusive_registration
from discovery.system.asyncio_tools import wait_for_tasks
from discovery.system.environment import child_environment
from discovery.system.signals import ONE_REQUEST

if TYPE_CHECKING:
    from discovery.daemon.settings import Settings

WITHDRAW_SECONDS = 2.0
"""Seconds for the withdrawal, before the command is stopped in any case: a stop should not wait for an outage."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command, its time in seconds after the withdrawal, and the signals that ask for its end."""

    argv: Sequence[str]
    drain: float
    stop_signals: Collection[signal.Signals]


def supervise(command: Command, wanted: Wanted, settings: "Settings") -> int:
    """Run the command, and keep the backend registered while the command lives and passes its check.

    Returns its exit code.
    """
    environment = child_environment()  # before this process sets variables that configure libraries
    signals = Signals()
    try:
        return run_coroutine(_supervise(command, environment, signals, wanted, settings))
    except BaseException:  # also a KeyboardInterrupt: the signals are unblocked, and it goes on
        signals.release()
        raise


async def _supervise(
    command: Command, environment: Mapping[str, str], signals: Signals, wanted: Wanted, settings: "Settings"
) -> int:
    import structlog

    start_logging(settings)
    log = structlog.get_logger()
    registry = registry_at(wanted.registry)
    registration = Registration(wanted, registry, log)
    async with exclusive_registration(wanted, settings.run_dir, log):
        try:
            child = Child(command.argv, environment, signals.mask_before)
        except CannotRunError as error:
            note(str(error))
            return error.code
        supervisor = Supervisor(command, child, registration, log)
        signals.read(supervisor.handle)
        code = await child.exit_code
        await supervisor.withdraw()
        await close_registry(registry)
    return code


class Supervisor:
    """Decides the effect of a signal on the command and on its registration."""

    def __init__(self, command: Command, child: Child, registration: Registration, log: FilteringBoundLogger) -> None:
        """Start the registration of the running `child`."""
        self._command = command
        self._child = child
        self._registration = registration
        self._log = log
        self._keeping = asyncio.create_task(registration.run())
        self._keeping.add_done_callback(self._kept)
        self._stopping: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    def handle(self, number: signal.Signals, from_terminal: bool) -> None:
        """Forward a signal to the command. The first stop signal is forwarded after the backend is withdrawn."""
        has_it = from_terminal and self._child.shares_our_group
        if number in self._command.stop_signals:
            now = asyncio.get_running_loop().time()
            if self._stopping is None:
                self._asked_at = now
                self._stopping = asyncio.create_task(self._stop(number, has_it))
                return
            if not self._stopping.done():
                if now - self._asked_at < ONE_REQUEST:
                    return  # the same request: timeout(1) sends two signals
                self._stopping.cancel()
        if not has_it:
            self._child.send(number)

    async def withdraw(self) -> None:
        """Withdraw the backend finally. If the registry does not answer, the record expires after its TTL."""
        self._keeping.cancel()
        await wait_for_tasks({self._keeping}, WITHDRAW_SECONDS)

    async def _stop(self, number: signal.Signals, has_it: bool) -> None:
        was_registered = self._registration.may_stand
        self._log.info("withdrawing, then stopping the command", signal=number.name)
        await self.withdraw()
        if has_it:
            return
        if was_registered:
            await asyncio.sleep(self._command.drain)
        self._child.send(number)

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            self._log.error("the backend is no longer registered; the command runs on", exc_info=error)
