"""The consumer `haproxy`: makes HAProxy serve each snapshot."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from discovery import ApplyError, Backend, Consumer, Context, Health, PluginConfig, Sample, Update, Validation
from discovery.toolkit import Certificate, read_certificate
from discovery_haproxy.deployment.bind_check import any_is_free
from discovery_haproxy.deployment.checking import Checker, find_checker
from discovery_haproxy.deployment.deploying import Deployer
from discovery_haproxy.deployment.digests import FileDigests, files_at
from discovery_haproxy.deployment.faults import SETTINGS, Fault, Refusal
from discovery_haproxy.deployment.on_disk import OnDisk
from discovery_haproxy.deployment.target import Target
from discovery_haproxy.deployment.users_files import login_faults
from discovery_haproxy.external.own_files import OwnFiles
from discovery_haproxy.external.slots import Slots
from discovery_haproxy.external.target import ExternalHAProxy
from discovery_haproxy.fallback.blaming import Layout
from discovery_haproxy.fallback.composing import Composed, Wanted
from discovery_haproxy.fallback.containment import Containment, Inputs
from discovery_haproxy.fallback.search import Deployment
from discovery_haproxy.label_routes.router import LabelRouter
from discovery_haproxy.limits import LIMITS, Limits
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.managed.stopping import stop_orphans
from discovery_haproxy.managed.target import ManagedHAProxy
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.binary import OLDEST, Binary, locate
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.program.down_servers import DownServers, lines_of, unread
from discovery_haproxy.program.upgrades import Upgrades
from discovery_haproxy.rendering.held_files import certificate_paths
from discovery_haproxy.rendering.render import Rendered, Renderer, Runtime, password_files, referenced_files
from discovery_haproxy.rendering.route_map import route_map_path
from discovery_haproxy.rendering.sections import BackendSection, Sections
from discovery_haproxy.text.generation import DESCRIPTION
from discovery_haproxy.text.neighbours import Neighbours
from discovery_haproxy.validation import find_faults, lost_log, preview_of

if TYPE_CHECKING:
    from discovery.toolkit import FileWatch

_LOGGED_LINES = 20
"""Number of services or problems that one change logs singly, so that a large registry does not flood the log."""


class HAProxyConsumer(Consumer[HAProxyConfig]):
    """Renders HAProxy's configuration and reloads HAProxy without a lost request, for every snapshot."""

    Config: ClassVar[type[PluginConfig]] = HAProxyConfig

    def __init__(self, config: HAProxyConfig, context: Context, limits: Limits = LIMITS) -> None:
        """Store the arguments; `setup` finds HAProxy."""
        super().__init__(config, context)
        self._limits = limits
        self._files = RunFiles(context.run_dir)
        written = config.external.file if config.external else None
        self._path = written or self._files.config
        """Path of the configuration file. With slots this is a list of what is wanted, which HAProxy does not read."""
        self._route_map = route_map_path(self._path)
        self._target: Target | None = None
        self._checker: Checker | None = None
        self._upgrades = Upgrades(context.log, limits)
        self._digests = FileDigests()
        self._renderer = Renderer()
        self._on_disk = OnDisk()
        self._watch: FileWatch | None = None
        self._watched: frozenset[Path] = frozenset()
        self._deployer: Deployer | None = None
        self._own_files = OwnFiles(config.external)
        self._containment = Containment(context.state_dir, context.log)
        self._router = LabelRouter(context.state_dir, context.log)
        self._problems: frozenset[str] = frozenset()
        self._mappings: tuple[str, ...] = ()
        self._served: dict[Path, str] = {}
        self._certificates: dict[Path, Certificate] = {}
        self._sections: tuple[BackendSection, ...] = ()
        self._verify_seconds: float | None = None
        self._down = DownServers(self._statistics, context.log)

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last apply that HAProxy's answers took which prove it; None if it was a reload, or nothing."""
        return self._verify_seconds

    @property
    def resident(self) -> bool:
        """Report whether HAProxy ends with the daemon: a managed HAProxy does, an external HAProxy does not."""
        return self.config.external is None

    async def setup(self) -> None:
        """Find HAProxy, and adopt a HAProxy that outlived an earlier daemon. Raises ApplyError or OSError."""
        if self.config.external is not None:
            self._checker = await find_checker(self.config)
            context = self.context
            if self.config.external.slots:
                self._target = Slots(self.config.external, self._path, context.log, context.request_apply)
            else:
                self._target = ExternalHAProxy(
                    self.config.external,
                    self._own_files,
                    context.state_dir,
                    context.log,
                    context.request_apply,
                    self._limits,
                )
        else:
            self._checker = binary = await locate(self.config.binary)
            self._target = ManagedHAProxy(
                self.context.run_dir, self.context.log, binary, self.context.request_apply, self._limits
            )
        self._target.verify(self.config)
        await self._target.open()
        self._down.start()
        self._deployer = Deployer(self._target, self._digests, self.context.state_dir, self.context.log, self._limits)
        self._watch_files()

    async def apply(self, update: Update) -> None:
        """Make HAProxy serve the snapshot, unless HAProxy does already.

        Raises ApplyError; the previous configuration then goes on serving.
        """
        target, deployer = self._target, self._deployer
        if target is None or deployer is None:
            raise ApplyError("HAProxy was not set up")
        self._verify_seconds = None
        checker = await self._find_checker()
        if update.operator_request:
            deployer.forget_refusals()
            self._containment.forget()
        own_files = self._own_files.read()
        files = (*referenced_files(self.config), *own_files.before, *own_files.after)
        config = self._routed(update, remember=True)
        inputs = Inputs(Wanted(config, update.snapshot), self._digests.read(files), checker)
        await self._containment.deploy(inputs, self._deployment(update, checker, target, deployer))
        self._checker = checker

    async def _find_checker(self) -> Checker:
        if isinstance(self._checker, Binary):
            return await self._upgrades.current(self._checker, self.config.binary)
        return self._checker or await find_checker(self.config)

    def _deployment(self, update: Update, checker: Checker, target: Target, deployer: Deployer) -> Deployment:
        last: tuple[Composed, Rendered | Refusal] | None = None
        before, tried = self._problems, set[str]()

        def render_or_refuse(composed: Composed) -> Rendered | Refusal:
            nonlocal last
            if last is None or last[0] is not composed:
                last = composed, self._render_or_refuse(composed, update, checker)
            return last[1]

        async def attempt(composed: Composed) -> Refusal | None:
            rendered = render_or_refuse(composed)
            if isinstance(rendered, Refusal):
                return rendered
            self._log_problems(rendered, before, tried)
            same = target.live_generation == rendered.generation and checker is self._checker
            if not (same and self._is_intact() and self._on_disk.has(target.path, rendered)):
                refusal = await deployer.deploy(rendered, checker)
                if refusal is not None:
                    # What is refused may be the operator's own lines, which only a reload would load.
                    loaded = self._own_files.as_loaded()
                    if loaded is None or refusal.by_load:
                        return refusal
                    rendered = self._render(composed, update, checker, loaded)
                    if await deployer.deploy(rendered, checker) is not None:
                        return refusal
                self._verify_seconds = target.verify_seconds
                self._log_certificates()
            self._log_mappings(rendered)  # also of an adopted HAProxy
            self._sections = rendered.sections.services
            self._down.follow(self._sections)
            return None

        async def check(composed: Composed) -> Refusal | None:
            rendered = render_or_refuse(composed)
            if isinstance(rendered, Refusal):
                return rendered
            return Refusal.of_alerts(checker.name, await checker.faults(rendered))

        def layout(composed: Composed) -> Layout:
            rendered = render_or_refuse(composed)
            if isinstance(rendered, Refusal):
                return Layout("", Sections((), (), (), ()), composed.config)
            return Layout(rendered.text, rendered.sections, composed.config)

        return Deployment(attempt, check, layout, any_is_free)

    def _render_or_refuse(self, composed: Composed, update: Update, checker: Checker) -> Rendered | Refusal:
        if files := password_files(composed.config):
            faults = login_faults(composed.config, self._digests.read(files), here=isinstance(checker, Binary))
            if refusal := Refusal.of_faults(faults):
                return refusal
        try:
            return self._render(composed, update, checker)
        except ApplyError as error:  # of the user's template
            return Refusal(str(error), (Fault(str(error), part=SETTINGS),))

    async def preview(self, update: Update) -> str:
        """Return the problems and the way of the change as comments, and the changes of the files as unified diffs."""
        checker = None
        with suppress(ApplyError):
            checker = await find_checker(self.config)
        rendered = self._render(self._composed(update), update, checker)
        return await preview_of(self.config, self.context.run_dir, rendered, checker.version if checker else OLDEST)

    async def validate(self, update: Update) -> Validation:
        """Check the configuration as `apply` does, and the paths of sockets."""

        def rendered(checker: Checker | None) -> Rendered:
            return self._render(self._composed(update), update, checker)

        return await find_faults(self.config, self.context.run_dir, rendered)

    async def reconfigure(self, config: HAProxyConfig) -> bool:
        """Accept the new configuration, unless the change concerns `external`. The next apply reloads HAProxy."""
        if config.external != self.config.external:
            return False
        if config.binary != self.config.binary:
            self._checker = None  # located by the next apply: a missing program must not end the running HAProxy
        self.config = config
        if self._target is not None:
            self._target.verify(config)
        self._watch_files()
        return True

    async def health(self) -> Health:
        """Report whether HAProxy runs and answers. Request an apply if files have changed or were removed."""
        if self._digests.changed(referenced_files(self.config)) or self._own_files.have_changed:
            # The watch does not cover directories of certificates, and files that were missing when the watch began.
            self.context.request_apply()
        if self._target is not None and self._target.running and not self._is_intact():
            self.context.request_apply()  # a socket or the log pipe was removed from the run directory
        if isinstance(self._checker, Binary) and await self._upgrades.is_due(self._checker, self.config.binary):
            self.context.request_apply()
        missed = self._deployer.missed_binds if self._deployer is not None else frozenset()
        if await any_is_free(missed | self._containment.addresses):
            self.context.request_apply()
        health = Health()
        if self._target is not None:
            health = replace(await self._target.health(), down=self._down.known, watched=self._down.watched)
            self._target.log_drops.report(_way_out_of_drops(self.config))
        behind = self._deployer.background.summary if self._deployer is not None else ""
        if health.ok and (problem := self._upgrades.fault or self._containment.summary or behind):
            return replace(health, ok=False, detail=problem)
        if health.ok and not health.detail and (lost := lost_log(self.config)):
            health = replace(health, detail=lost)
        if health.ok and (refused := self._router.problems):
            return replace(health, problems={"label_routes": _in_one_line(refused)})
        return health

    def metrics(self) -> Iterable[Sample]:
        """Return the number of parts that serve in an earlier form, and the metrics of a managed HAProxy."""
        target = self._target
        help_ = "Services, binds and settings that HAProxy refuses, and for which an earlier form serves, or nothing."
        refused = [
            Sample("refused_parts", count, {"kind": kind}, kind="gauge", help=help_)
            for kind, count in self._containment.counts.items()
        ]
        if target is None:
            return refused
        drops = Sample("log_lines_dropped", target.log_drops.total, help="Lines of its log that HAProxy has dropped.")
        return (*refused, drops, *target.metrics())

    async def inspect(self) -> Mapping[str, Any]:
        """Return what is refused, and what serves instead, and how HAProxy was changed last.

        `refused_file` is why HAProxy could not start from its file again, although HAProxy serves; None if it could.
        """
        behind = self._deployer.background.refusal if self._deployer is not None else None
        found: dict[str, Any] = {"refused": self._containment.reports()}
        found["refused_file"] = behind.message if behind else None
        found["unread"] = unread(self._sections)
        if self.config.label_routes:
            found["label_routes"] = self._router.inspect()
        return {**found, **(self._target.inspect() if self._target else {})}

    def explain(self, backends: Sequence[Backend]) -> Mapping[str, Sequence[str]]:
        """Return the `server` lines of these backends."""
        return lines_of(self._sections, [each.key for each in backends])

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Leave HAProxy serving. The next daemon adopts a managed HAProxy."""
        await self._down.stop()
        if self._deployer is not None:
            await self._deployer.background.stop()
        if self._target is not None:
            target, self._target = self._target, None
            await target.hand_over()
        return ()

    @classmethod
    async def end_orphans(cls, context: Context) -> dict[int, str]:
        """Stop managed HAProxy processes that have outlived their daemon. Return their pids, with a name for each."""
        return dict.fromkeys(await stop_orphans(context.run_dir, context.log), "HAProxy")

    async def teardown(self) -> None:
        """Stop a managed HAProxy gracefully; leave an external HAProxy running."""
        await self._down.stop()
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await asyncio.to_thread(watch.close)
        if self._deployer is not None:
            await self._deployer.background.stop()
        if self._target is not None:
            target, self._target = self._target, None
            await target.close()

    def _statistics(self) -> ControlSocket | None:
        return self._target.statistics if self._target is not None else None

    def _is_intact(self) -> bool:
        """Report whether HAProxy runs and its sockets exist."""
        target = self._target
        return target is not None and target.running and target.reachable

    def _composed(self, update: Update) -> Composed:
        """Return the configuration with each part in its present form."""
        return Composed(self._routed(update), update.snapshot)

    def _routed(self, update: Update, *, remember: bool = False) -> HAProxyConfig:
        """Return the configuration with the services that labels ask for. `remember` is that of the router."""
        digests = self._digests.read(self.config.include)
        taken = self._renderer.own_sections.places(self.config, digests, self._own_files.read())
        return self._router.configured(self.config, update.snapshot, taken, remember=remember)

    def _render(
        self, composed: Composed, update: Update, checker: Checker | None, neighbours: Neighbours | None = None
    ) -> Rendered:
        """Render. `neighbours` are the files beside a fragment; None: as they are now."""
        external, files = self.config.external, self._files
        runtime = Runtime(
            stats_socket=external.stats_socket if external else files.stats_socket,
            marker=external.marker if external else DESCRIPTION,
            neighbours=(neighbours or self._own_files.read()) if self.config.is_fragment else None,
            version=checker.version if checker else OLDEST,
            state_file=None if external else files.server_states,
            resolv_conf=os.access("/etc/resolv.conf", os.R_OK),
            alone=external is None,
            route_map=self._route_map,
            peers_socket=files.peers_socket if composed.config.keep_stick_tables else None,
        )
        rendered = self._renderer.render(
            composed.config,
            composed.snapshot,
            runtime,
            self._digests.read(referenced_files(composed.config)),
            update.addresses_of,
            certificates=self._digests.read_certificates(certificate_paths(composed.config)),
            replaced=composed.replaced,
            former=composed.former,
            template_directories=composed.template_directories,
        )
        refused = self._router.problems
        return replace(rendered, problems=(*refused, *rendered.problems)) if refused else rendered

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
                self.context.log.warning(
                    "files cannot be watched, and are compared at every health check instead", reason=str(error)
                )

    def _log_problems(self, rendered: Rendered, before: frozenset[str], tried: set[str]) -> None:
        """Log the problems that are neither of the apply `before` nor of the forms that this apply has `tried`."""
        new = [each for each in rendered.problems if each not in before and each not in tried]
        tried.update(rendered.problems)
        self._problems = frozenset(tried)
        _log_lines(new, self.context.log.warning)

    def _log_certificates(self) -> None:
        """Log the certificates that replace a certificate of the previous configuration."""
        paths = referenced_files(self.config)
        before, self._served = self._served, self._digests.read(paths)
        if self._served == before:
            return
        files = [file for path in paths for file in files_at(path)]
        found = {file: certificate for file in files if (certificate := read_certificate(file)) is not None}
        known, self._certificates = self._certificates, found
        renewed = [
            f"certificate reloaded: {each} ({file})" for file, each in found.items() if known.get(file, each) != each
        ]
        _log_lines(renewed, self.context.log.info)

    def _log_mappings(self, rendered: Rendered) -> None:
        before, self._mappings = self._mappings, rendered.mappings
        if before is not rendered.mappings:
            known = frozenset(before)
            _log_lines([each for each in rendered.mappings if each not in known], self.context.log.info)


def _log_lines(lines: Sequence[str], log: Callable[[str], object]) -> None:
    for line in lines[:_LOGGED_LINES]:
        log(line)
    if len(lines) > _LOGGED_LINES:
        log(f"and {len(lines) - _LOGGED_LINES} more of these")


def _in_one_line(problems: Sequence[str]) -> str:
    more = len(problems) - 1
    return f"{problems[0]}; and {more} more" if more else problems[0]


def _way_out_of_drops(config: HAProxyConfig) -> str:
    if isinstance(config.access_log, str):
        return (
            f"the program at {config.access_log} reads too slowly. A longer queue helps a Unix socket"
            " (`sysctl net.unix.max_dgram_qlen`), and UDP has the buffer that its receiver asks for"
        )
    reader = "HAProxy's stderr is read" if config.external else "the daemon reads them"
    return f'{reader} too slowly. With access_log = "127.0.0.1:514" or "/dev/log" HAProxy writes to syslog itself'
