"""The base of the consumers: renders files, replaces them in a transaction, and makes a program read them."""

import asyncio
import hashlib
import secrets
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from discovery import ApplyError, Backend, Consumer, Context, Health, PluginConfig, Sample, Update, describe
from discovery.toolkit import FileContents, FileTransaction, Program, recover_files
from discovery_template.containment import Containment, RefusedError
from discovery_template.files.difference import difference, read
from discovery_template.files.forms import read_forms, write_forms
from discovery_template.files.lines import lines_about
from discovery_template.printing.environment import TemplateError
from discovery_template.printing.marks import UnprintableError
from discovery_template.printing.views import ServiceView, views_of

C = TypeVar("C", bound=PluginConfig)

_GENERATION_DIGITS = 16
"""Hexadecimal digits of a generation: two of an instance's life are never equal by chance."""


class Prepared(NamedTuple):
    """Files that are staged and checked, and the generation that they contain."""

    transaction: FileTransaction
    generation: str
    files: Mapping[Path, FileContents]


class FileConsumer(Consumer[C]):
    """A consumer whose effect is files, and a program that reads them.

    A derived class renders the files (`render`) and says how they are checked, read and proven.
    """

    def __init__(self, config: C, context: Context) -> None:
        """Store the arguments; `setup` does the rest."""
        super().__init__(config, context)
        self._program: Program | None = None
        self._containment = Containment(self._prepare, self._rendered)
        self._prepared: FileTransaction | None = None
        self._live: Prepared | None = None
        self._is_settled = True
        self._verify_seconds: float | None = None
        self._forms: tuple[ServiceView, ...] = ()
        self._left_out: Mapping[str, str] = {}
        self._placeholder = secrets.token_hex(_GENERATION_DIGITS)
        self._is_handed_over = False
        self._reloads = 0
        self._rollbacks = 0

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last apply in which the program was to show the generation; None if nothing changed."""
        return self._verify_seconds

    @abstractmethod
    def render(self, services: Sequence[ServiceView], generation: str) -> Mapping[Path, FileContents]:
        """Return the files for these services. Raises TemplateError and UnprintableError. Writes nothing."""

    def left_out(self, services: Sequence[ServiceView]) -> Mapping[str, str]:
        """Return the reasons of services that the files can have no place for, by a name for people."""
        return {}

    async def check_staged(self, transaction: FileTransaction, files: Mapping[Path, FileContents]) -> None:
        """Check the staged files. Raises RefusedError, and ApplyError if the files cannot be checked."""

    async def check_installed(self) -> None:
        """Check the files in their places, before the program reads them. Raises ApplyError."""

    @abstractmethod
    async def reload(self, generation: str) -> None:
        """Make the program, which runs, read the files. Raises ApplyError."""

    async def start(self, generation: str) -> None:
        """Start the program. Raises ApplyError."""

    async def prove(self, generation: str) -> None:
        """Wait until the program shows the generation. Raises ApplyError."""

    async def setup(self) -> None:
        """Put back what a daemon that died has left half done, and adopt its program. Raises ApplyError or OSError."""
        if recovered := recover_files(self.context.state_dir):
            self.context.log.warning("put back files of a change that had not ended", files=list(map(str, recovered)))
            self._is_settled = False
        self._forms = read_forms(self.context.state_dir)
        self._containment.restore(self._forms)
        if self._program is not None:
            await self._program.adopt()

    async def apply(self, update: Update) -> None:
        """Make the files and the program follow the snapshot. Raises ApplyError; then everything is as before."""
        self._verify_seconds = None
        if update.operator_request:
            self._containment.forget()
        services = views_of(update.snapshot, update.addresses_of)
        try:
            prepared = await self._containment.compose(services)
            if not self._is_live(prepared):
                await self._deploy(prepared)
        finally:
            self._discard()
        self._live = prepared
        self._containment.accept(services)
        self._left_out = self.left_out(services)
        if (forms := self._containment.forms) != self._forms:
            write_forms(self.context.state_dir, forms)
            self._forms = forms

    def _is_live(self, prepared: Prepared) -> bool:
        is_running = self._program is None or self._program.running
        return prepared.transaction.is_empty and self._is_settled and is_running

    async def _deploy(self, prepared: Prepared) -> None:
        transaction = prepared.transaction
        transaction.install()
        was_read = False
        try:
            await self.check_installed()
            was_read, self._is_settled = True, False
            await self._activate(prepared.generation)
            activated = time.monotonic()
            await self.prove(prepared.generation)
            self._verify_seconds = time.monotonic() - activated
        except BaseException as error:  # also a cancellation: the former files are put back
            transaction.roll_back()
            if isinstance(error, ApplyError | OSError) and was_read:
                self._rollbacks += 1
                await self._return_to_former()
            raise
        transaction.commit()
        self._is_settled = True
        self._reloads += 1

    async def _activate(self, generation: str) -> None:
        if self._program is not None and not self._program.running:
            await self.start(generation)
        else:
            await self.reload(generation)

    async def _return_to_former(self) -> None:
        """Make the program read the files that were put back."""
        if self._live is None and self._program is not None and not self._program.running:
            return  # there is no former state
        try:
            await self._activate(self._live.generation if self._live else "")
            self.context.log.warning("the change was rolled back")
        except (ApplyError, OSError) as error:
            self.context.log.error("the program does not return to its former files", reason=describe(error))

    async def _prepare(self, services: Sequence[ServiceView]) -> Prepared:
        self._discard()
        files, generation = self._rendered(services)
        transaction = FileTransaction(files, self.context.state_dir)
        if not transaction.is_empty:
            transaction.stage()
            self._prepared = transaction
            await self.check_staged(transaction, files)
        return Prepared(transaction, generation, files)

    def _discard(self) -> None:
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None

    def _rendered(self, services: Sequence[ServiceView]) -> tuple[dict[Path, FileContents], str]:
        """Return the files with their generation, a digest of all of them. Raises RefusedError."""
        try:
            files = self.render(services, self._placeholder)
        except (TemplateError, UnprintableError) as error:
            raise RefusedError(str(error), error.marks) from None
        placeholder = self._placeholder.encode()
        digest = hashlib.sha256()
        for path, contents in files.items():
            digest.update(str(path).encode() + b"\0" + contents.data.replace(placeholder, b"") + b"\0")
        generation = digest.hexdigest()[:_GENERATION_DIGITS]
        written = generation.encode()
        return {
            path: contents._replace(data=contents.data.replace(placeholder, written))
            for path, contents in files.items()
        }, generation

    async def _contained(self, update: Update) -> tuple[dict[Path, FileContents], Mapping[str, str]]:
        """Return the files that an apply would write, and the services that it would refuse. Writes nothing."""

        async def attempt(services: Sequence[ServiceView]) -> dict[Path, FileContents]:
            return self._rendered(services)[0]

        containment = Containment(attempt, self._rendered)
        files = await containment.compose(views_of(update.snapshot, update.addresses_of))
        return files, containment.reasons

    async def preview(self, update: Update) -> str:
        """Return the refused services as comments, and the changes of the files as a unified diff. Writes nothing."""
        files, reasons = await self._contained(update)
        problems = "".join(f"# service {name!r} is refused: {reason}\n" for name, reason in reasons.items())
        return problems + await asyncio.to_thread(difference, files)

    async def health(self) -> Health:
        """Report the program and services without their place. Request an apply if a file was changed by another."""
        problems = {**self._left_out, **self._containment.problems}
        if self._live is not None and any(read(path) != each.data for path, each in self._live.files.items()):
            self.context.request_apply()
        if self._live is not None and self._program is not None and not self._program.running:
            detail = f"{self._program.name} does not run: {self._program.reason()}"
            return Health(ok=False, detail=detail, problems=problems)
        return Health(problems=problems)

    def metrics(self) -> Iterable[Sample]:
        """Return the numbers of refused services, of reloads and of changes that were rolled back."""
        return (
            Sample("refused_services", len(self._containment.reasons), kind="gauge", help="Services that are refused."),
            Sample("reloads", self._reloads, help="Changes that the program has read."),
            Sample("rollbacks", self._rollbacks, help="Changes that were rolled back after the program had read them."),
        )

    def explain(self, backends: Sequence[Backend]) -> Mapping[str, Sequence[str]]:
        """Return the lines of the files that have the addresses of these backends."""
        return lines_about(self._live.files, backends) if self._live is not None else {}

    async def inspect(self) -> Mapping[str, Any]:
        """Return the generation, the files, the refused services with their reasons, and the program's id."""
        return {
            "generation": self._live.generation if self._live else None,
            "files": [str(path) for path in self._live.files] if self._live else [],
            "refused": dict(self._containment.reasons),
            "pid": self._program.pid if self._program else None,
        }

    async def hand_over(self) -> tuple[()]:
        """Leave the program running: the next daemon adopts it."""
        self._is_handed_over = True
        return ()

    async def teardown(self) -> None:
        """Stop the program, unless it was handed over. The files stay."""
        if self._program is not None:
            program, self._program = self._program, None
            await (program.leave() if self._is_handed_over else program.stop())
