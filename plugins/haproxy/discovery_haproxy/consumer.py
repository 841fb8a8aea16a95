"""The consumer: from a snapshot to a HAProxy that serves it."""

import asyncio
import difflib
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from discovery import ApplyError, Consumer, Context, Health, PluginConfig, Update, Validation
from discovery.toolkit import Certificate, read_certificate
from discovery_haproxy.binary import OLDEST, Binary, NotInstalledError, locate
from discovery_haproxy.config import HAProxyConfig
from discovery_haproxy.digests import Digests, files_at
from discovery_haproxy.external import ExternalHAProxy
from discovery_haproxy.managed import ManagedHAProxy
from discovery_haproxy.probe import misplaced, probe, too_long
from discovery_haproxy.render import Rendered, Runtime, referenced_files, render
from discovery_haproxy.run_files import RunFiles
from discovery_haproxy.stopping import stop_orphans
from discovery_haproxy.target import Target

if TYPE_CHECKING:
    from discovery.toolkit import FileWatch

_LINES = 20
"""How many services, or problems, a change logs one by one."""


class HAProxyConsumer(Consumer[HAProxyConfig]):
    """Makes HAProxy follow the registry, by writing its configuration and reloading it without a lost request."""

    Config: ClassVar[type[PluginConfig]] = HAProxyConfig

    def __init__(self, config: HAProxyConfig, context: Context) -> None:
        """Keep the arguments."""
        super().__init__(config, context)
        self._target: Target | None = None
        self._binary: Binary | None = None
        self._digests = Digests()
        self._watch: FileWatch | None = None
        self._watched: frozenset[Path] = frozenset()
        self._binds: frozenset[str] = frozenset()
        self._problems: frozenset[str] = frozenset()
        self._mappings: frozenset[str] = frozenset()
        self._served: dict[Path, str] = {}
        self._certificates: dict[Path, Certificate] = {}

    @property
    def resident(self) -> bool:
        """A HAProxy of our own ends with the daemon; an external one goes on."""
        return self.config.external is None

    async def setup(self) -> None:
        """Find HAProxy, and take over one of ours that outlived an earlier daemon. Raises ApplyError or OSError."""
        self._binary = await locate(self.config.binary)
        if self.config.external is not None:
            self._target = ExternalHAProxy(self.config.external, self.context.log)
        else:
            self._target = ManagedHAProxy(self.context.run_dir, self.context.log, self._binary)
        await self._target.open()
        self._watch_files()

    async def apply(self, update: Update) -> None:
        """Make HAProxy serve the snapshot; nothing happens if it does. Raises ApplyError: the old goes on serving."""
        target = self._target
        if target is None:
            raise ApplyError("HAProxy was not set up")
        binary = self._binary or await locate(self.config.binary)
        rendered = await self._render(update, binary)
        self._tell_problems(rendered)
        same = target.live_generation == rendered.generation and binary is self._binary
        if same and self._is_whole() and _holds(target.path, rendered.text):
            self._tell_mappings(rendered)  # of one that was taken over
            return
        # Where none runs there is nothing to lose: HAProxy checks what it is started with.
        unchecked = None if target.running else rendered.text
        # Side by side: HAProxy's parsing and the disk are the two slow steps before the reload.
        checks = [] if unchecked else [binary.check(rendered.text)]
        for failure in await asyncio.gather(*checks, target.prepare(rendered.text), return_exceptions=True):
            if failure is not None:
                raise failure
        probe(sorted(set(rendered.binds) - self._binds) if target.running else rendered.binds, target.pids)
        try:
            await target.deploy(rendered.generation, binary, unchecked)
        except ApplyError:
            self._binds = frozenset()
            if unchecked:
                await binary.check(unchecked)  # which tells more than a HAProxy that does not start
            raise
        self._binary, self._binds = binary, frozenset(rendered.binds)
        self._tell_mappings(rendered)
        self._tell_certificates()

    async def preview(self, update: Update) -> str:
        """What would change in the configuration file, as a unified diff."""
        path = self.config.external.path if self.config.external else RunFiles(self.context.run_dir).config
        binary = None
        with suppress(ApplyError):
            binary = await locate(self.config.binary)
        text = (await self._render(update, binary)).text
        old = path.read_text(errors="replace") if path.exists() else ""
        return "".join(
            difflib.unified_diff(old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), str(path))
        )

    async def validate(self, update: Update) -> Validation:
        """What HAProxy says of the configuration (`-c`), and whether there can be sockets."""
        external = self.config.external
        faults: list[str] = []
        named: list[str] = []  # sockets with too long a path, of which HAProxy complains as well
        files = RunFiles(self.context.run_dir)
        if external is None and (reason := files.path_length_error):
            faults.append(reason)
            named.append(str(files.stats_socket))
        try:
            binary = await locate(self.config.binary)
        except NotInstalledError as error:
            return await self._validate_elsewhere(update, faults, str(error))
        rendered = await self._render(update, binary)
        named += filter(too_long, rendered.binds)
        refused = await binary.faults(rendered.text)
        faults += [
            f"haproxy refuses {each}" for each in refused if not any(f"'{path}' too long" in each for path in named)
        ]
        made = self.context.run_dir, self.context.run_dir.parent
        faults += filter(None, (too_long(each) or misplaced(each, made) for each in rendered.binds))
        if external is not None and not external.path.parent.is_dir():
            faults.append(f"{external.path} cannot be written: there is no directory {external.path.parent}")
        return Validation(tuple(faults), listens=self._listens(rendered))

    async def _validate_elsewhere(self, update: Update, faults: Sequence[str], reason: str) -> Validation:
        """Where HAProxy is not installed, files that are missing may be those of the machine that it is for."""
        missing = [path for path in referenced_files(self.config) if not path.exists()]
        unchecked = [f"the configuration as HAProxy reads it: {reason}"]
        unchecked += [f"{path}: it does not exist on this machine, which has no HAProxy" for path in missing]
        listens: tuple[str, ...] = ()
        if self.config.template not in missing:
            listens = self._listens(await self._render(update, None))
        return Validation(tuple(faults), tuple(unchecked), listens)

    async def reconfigure(self, config: HAProxyConfig) -> bool:
        """Take all but a change between our own HAProxy and an external one in place, by a reload."""
        if config.external != self.config.external:
            return False
        if config.binary != self.config.binary:
            self._binary = None  # found when it is needed: what runs is not to end because there is no such program
        self.config = config
        self._watch_files()
        return True

    async def health(self) -> Health:
        """Whether HAProxy runs and answers."""
        if self._digests.changed(referenced_files(self.config)):
            # Where the watch does not reach: directories of certificates, and what was missing when it began.
            self.context.request_apply()
        if self._target is not None and self._target.running and not self._is_whole():
            self.context.request_apply()  # files have been removed from the run directory
        return Health() if self._target is None else await self._target.health()

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Leave our own HAProxy serving: the successor takes it over as it does one that outlived its daemon."""
        if self._target is not None:
            target, self._target = self._target, None
            await target.hand_over()
        return ()

    @classmethod
    async def end_orphans(cls, context: Context) -> dict[int, str]:
        """Stop a HAProxy of our own that has outlived its daemon."""
        return dict.fromkeys(await stop_orphans(context.run_dir, context.log), "HAProxy")

    async def teardown(self) -> None:
        """Stop our own HAProxy, gracefully; leave an external one running."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await asyncio.to_thread(watch.close)
        if self._target is not None:
            target, self._target = self._target, None
            await target.close()

    def _listens(self, rendered: Rendered) -> tuple[str, ...]:
        """The addresses that other instances cannot have. An external HAProxy may have a network of its own."""
        return () if self.config.external else rendered.binds

    def _is_whole(self) -> bool:
        """Whether HAProxy runs, and can be reached."""
        target = self._target
        return target is not None and target.running and target.reachable

    async def _render(self, update: Update, binary: Binary | None) -> Rendered:
        external = self.config.external
        files = RunFiles(self.context.run_dir)
        runtime = Runtime(
            stats_socket=external.stats_socket if external else files.stats_socket,
            version=binary.version if binary else OLDEST,
            state_file=None if external else files.server_states,
            resolv_conf=os.access("/etc/resolv.conf", os.R_OK),
            alone=external is None,
        )
        digests = self._digests.of(referenced_files(self.config))
        return render(self.config, update.snapshot, runtime, digests, update.addresses_of)

    def _watch_files(self) -> None:
        files = frozenset(referenced_files(self.config))
        if files == self._watched and self._watch is not None:
            return
        if self._watch is not None:
            self._watch.close()
        self._watch, self._watched = None, files
        present = [path for path in files if path.parent.is_dir()]
        if present:
            from discovery.toolkit import FileWatch  # here: few configurations name a file

            try:
                self._watch = FileWatch(present, self.context.request_apply)
            except OSError as error:
                self.context.log.warning("files cannot be watched; they are looked at now and then", reason=str(error))

    def _tell_problems(self, rendered: Rendered) -> None:
        before, self._problems = self._problems, frozenset(rendered.problems)
        _tell([each for each in rendered.problems if each not in before], self.context.log.warning)

    def _tell_certificates(self) -> None:
        """Log which certificates are others than those that served before."""
        paths = referenced_files(self.config)
        before, self._served = self._served, self._digests.of(paths)
        if self._served == before:
            return
        files = [file for path in paths for file in files_at(path)]
        found = {file: certificate for file in files if (certificate := read_certificate(file)) is not None}
        known, self._certificates = self._certificates, found
        renewed = [
            f"certificate reloaded: {each} ({file})" for file, each in found.items() if known.get(file, each) != each
        ]
        _tell(renewed, self.context.log.info)

    def _tell_mappings(self, rendered: Rendered) -> None:
        before, self._mappings = self._mappings, frozenset(rendered.mappings)
        _tell([each for each in rendered.mappings if each not in before], self.context.log.info)


def _tell(lines: Sequence[str], tell: Callable[[str], object]) -> None:
    for line in lines[:_LINES]:
        tell(line)
    if len(lines) > _LINES:
        tell(f"and {len(lines) - _LINES} more of these")


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False
