"""The consumer `template`: files by templates of the operator's own, for any program that reads a file."""

import asyncio
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from discovery import ApplyError, Context, PluginConfig, Update, Validation
from discovery.toolkit import FileContents, FileTransaction, Program, Stopping, check_command, end_left_program
from discovery_template.consumer_base import FileConsumer
from discovery_template.options.template import BUILT_IN, RUN_DIR, FileConfig, TemplateConfig
from discovery_template.printing.environment import Templates
from discovery_template.printing.views import Services, ServiceView
from discovery_template.running.commands import examine, filled
from discovery_template.running.proving import prove
from discovery_template.running.reloading import reload

if TYPE_CHECKING:
    from discovery.toolkit import FileWatch

_START_SECONDS = 0.3
"""Seconds for which a started program must live: most mistakes in a file end it within milliseconds."""


class TemplateConsumer(FileConsumer[TemplateConfig]):
    """Writes files by templates, and makes a program read them."""

    Config: ClassVar[type[PluginConfig]] = TemplateConfig

    def __init__(self, config: TemplateConfig, context: Context) -> None:
        """Store the arguments."""
        super().__init__(config, context)
        self._templates = _templates(config)
        self._watch: FileWatch | None = None

    @property
    def resident(self) -> bool:
        """True if the plugin runs the program, which then ends with the daemon."""
        return self.config.run is not None

    @property
    def stop_seconds(self) -> float:
        """Seconds that the program may take to end."""
        return max(10.0, self.config.run.stop_timeout + 4) if self.config.run else 10.0

    @property
    def _names(self) -> Mapping[str, str]:
        """What `{run_dir}` stands for."""
        return {"run_dir": str(self.context.run_dir.absolute())}

    def _path(self, config: FileConfig) -> Path:
        (path,) = filled((str(config.file),), self._names)
        return Path(path)

    async def setup(self) -> None:
        """Watch the templates, and adopt the program of an earlier daemon. Raises ApplyError or OSError."""
        if self.config.run is not None:
            stopping = Stopping(signal.Signals[f"SIG{self.config.run.stop_signal}"], self.config.run.stop_timeout)
            command = filled(self.config.run.command, self._names)
            self._program = Program(
                command, self.context.run_dir, self.context.log, stopping, self.context.request_apply
            )
        await super().setup()
        self._watch_templates()

    def render(self, services: Sequence[ServiceView], generation: str) -> Mapping[Path, FileContents]:
        """Return the files by their templates."""
        given = Services(services)
        files = {}
        for each in self.config.files:
            variables = {"services": given, "generation": generation, "variables": each.variables}
            variables["backends"] = tuple(backend for service in services for backend in service.backends)
            variables["name"] = self.context.name
            text = self._templates.render(each.template, each.format, variables)
            files[self._path(each)] = FileContents(text.encode(), each.mode)
        return files

    async def check_staged(self, transaction: FileTransaction, files: Mapping[Path, FileContents]) -> None:
        """Let the `check` of each file that changes examine the staged file."""
        for each in self.config.files:
            if each.check is not None and (path := transaction.staged(self._path(each))) != self._path(each):
                command = filled(each.check, {**self._names, "file": str(path)})
                await examine(command, self.config.check_timeout, f"the check refuses {each.file}")

    async def check_installed(self) -> None:
        """Let the instance's `check` examine the files in their places."""
        if self.config.check is not None:
            command = filled(self.config.check, self._names)
            await check_command(command, self.config.check_timeout, "the check refuses the files")

    async def start(self, generation: str) -> None:
        """Start the program of `run`."""
        if self._program is not None:
            await self._program.start(_START_SECONDS, lambda: False)

    async def reload(self, generation: str) -> None:
        """Reload the program, if the configuration says how."""
        if self.config.reload is not None:
            await reload(self.config.reload, self._program, {**self._names, "generation": generation})

    async def prove(self, generation: str) -> None:
        """Wait until the proof of the configuration holds."""
        if self.config.prove is not None:
            await prove(self.config.prove, {**self._names, "generation": generation})

    async def validate(self, update: Update) -> Validation:
        """Render the templates, and let the checks of single files examine the result in a temporary directory."""
        faults: list[str] = []
        unchecked: list[str] = []
        paths = tuple(str(self._path(each)) for each in self.config.files)
        try:
            files, reasons = await self._contained(update)
        except ApplyError as error:
            return Validation(faults=(str(error),), files=paths)
        faults += (f"service {name!r} is refused: {reason}" for name, reason in reasons.items())
        with tempfile.TemporaryDirectory() as directory:
            for each in self.config.files:
                if not (self._path(each).parent.is_dir() or str(each.file).startswith(RUN_DIR)):
                    unchecked.append(f"there is no directory {each.file.parent} for {each.file.name}")
                if each.check is None:
                    continue
                path = Path(directory, each.file.name)
                path.write_bytes(files[self._path(each)].data)
                try:
                    command = filled(each.check, {**self._names, "file": str(path)})
                    await examine(command, self.config.check_timeout, f"the check refuses {each.file}")
                except ApplyError as error:
                    faults.append(str(error))
        return Validation(tuple(faults), tuple(unchecked), files=paths)

    async def reconfigure(self, config: TemplateConfig) -> bool:
        """Adopt the configuration, unless another program is to run."""
        if config.run != self.config.run:
            return False
        self.config = config
        self._templates = _templates(config)
        self._containment.forget()
        self._is_settled = False
        await self._end_watch()
        self._watch_templates()
        return True

    @classmethod
    async def end_orphans(cls, context: Context) -> Mapping[int, str]:
        """End a program that has outlived its daemon."""
        return await end_left_program(context.run_dir)

    async def teardown(self) -> None:
        """End the watch of the templates, and stop the program."""
        await self._end_watch()
        await super().teardown()

    def _watch_templates(self) -> None:
        from discovery.toolkit import FileWatch  # imported here: ready-made templates need no watch

        paths = [Path(each.template).absolute() for each in self.config.files if not each.template.startswith(BUILT_IN)]
        if paths:
            self._watch = FileWatch(paths, self._on_change)

    def _on_change(self) -> None:
        self._containment.forget()
        self.context.request_apply()

    async def _end_watch(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await asyncio.to_thread(watch.close)


def _templates(config: TemplateConfig) -> Templates:
    paths = (Path(each.template) for each in config.files if not each.template.startswith(BUILT_IN))
    return Templates(tuple(dict.fromkeys(path.absolute().parent for path in paths)))
