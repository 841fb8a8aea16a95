"""Validation and preview: the faults of a configuration and its changes of files, without a deployment."""

import difflib
from collections.abc import Callable
from pathlib import Path

from discovery import ApplyError, Validation
from discovery_haproxy.deployment.bind_check import missing_directory_error, path_length_error
from discovery_haproxy.deployment.checking import NO_CHECK_REASON, Checker, NoChecker, find_checker
from discovery_haproxy.deployment.digests import FileDigests
from discovery_haproxy.deployment.users_files import login_faults
from discovery_haproxy.external.target import file_fault
from discovery_haproxy.managed.run_files import RunFiles
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.binary import Binary, NotInstalledError
from discovery_haproxy.program.syslog import missing_receiver
from discovery_haproxy.rendering.render import Rendered, password_files, referenced_files
from discovery_haproxy.rendering.route_map import route_map_path
from discovery_haproxy.runtime_api.forecast import forecast
from discovery_haproxy.text.generation import DESCRIPTION
from discovery_haproxy.text.passwords import without_passwords
from discovery_haproxy.text.seal import unseal


async def find_faults(
    config: HAProxyConfig, run_dir: Path, rendered: Callable[[Checker | None], Rendered]
) -> Validation:
    """Check a configuration as a deployment does, and the paths of sockets.

    `rendered` returns the configuration for the version of a checker.
    """
    found = _Findings(config, run_dir)
    try:
        checker = await find_checker(config)
    except NotInstalledError as error:
        found.without_check(str(error))
    else:
        if isinstance(checker, NoChecker):
            if not (config.external and config.external.slots):
                found.without_check(NO_CHECK_REASON)
        else:
            return await found.checked(checker, rendered(checker))
    listens: tuple[str, ...] = ()
    if config.template is None or config.template.exists():
        listens = found.listens(rendered(None))
    return Validation(tuple(found.faults), tuple(found.unchecked), listens, files=files_of(config))


def files_of(config: HAProxyConfig) -> tuple[str, ...]:
    """Return the paths of the files that an external HAProxy reads and the plugin writes."""
    external = config.external
    if external is None:
        return ()
    written = (external.state_file,) if external.file is None else (external.file, route_map_path(external.file))
    return tuple(str(path) for path in written if path is not None)


async def preview_of(config: HAProxyConfig, run_dir: Path, rendered: Rendered, version: tuple[int, ...]) -> str:
    """Return the problems and the way of the change as comments, and the changes of files as diffs.

    `version` is that of HAProxy, in case that the running HAProxy cannot be asked.
    """
    external, managed = config.external, RunFiles(run_dir)
    path = (external.file if external else None) or managed.config
    comments = list(rendered.problems)
    changes = "".join(_diff(each, contents) for each, contents in ((path, rendered.text), *rendered.maps.items()))
    if changes and (served := _written(path)):
        stats_socket = external.stats_socket if external else managed.stats_socket
        marker = external.marker if external else DESCRIPTION
        inherited = rendered.neighbours.inherited
        comments.append(await forecast(served, rendered.configuration, stats_socket, version, marker, inherited))
    return "".join(f"# {comment}\n" for comment in comments) + changes


def lost_log(config: HAProxyConfig) -> str:
    """Return a line for a person if a managed HAProxy's access log has no receiver now; else an empty text."""
    target = config.access_log
    reason = missing_receiver(target) if isinstance(target, str) and config.external is None else ""
    return f"access_log {target}: {reason}, so that lines are lost" if reason else ""


class _Findings:
    """The faults of a configuration so far, and what cannot be checked here."""

    def __init__(self, config: HAProxyConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self.faults: list[str] = []
        self._reported: list[str] = []
        """Sockets with too long a path, about which HAProxy has an alert as well."""
        self.unchecked: list[str] = [lost] if (lost := lost_log(config)) else []
        external, files = config.external, RunFiles(run_dir)
        if external is None and (reason := files.path_length_error):
            self.faults.append(reason)
            self._reported.append(str(files.stats_socket))
        if external is not None and external.file is not None and external.file.is_dir():
            self.faults.append(f"{external.file} is a directory: set external.{external.option} to a file in it")
        elif external is not None:
            try:
                self.faults += filter(None, [file_fault(external)])
            except ApplyError as error:  # this user may have fewer rights than the daemon
                self.unchecked.append(f"whether {external.file} may be replaced: {error}")

    async def checked(self, checker: Checker, rendered: Rendered) -> Validation:
        """Return the result of a check."""
        external = self._config.external
        self._add_logins(here=isinstance(checker, Binary))
        reported = [*self._reported, *filter(path_length_error, rendered.binds)]
        refused = await checker.faults(rendered)
        self.faults += [
            f"{checker.name} refuses {each}"
            for each in refused
            if not any(f"'{path}' too long" in each for path in reported)
        ]
        self.faults += filter(None, map(path_length_error, rendered.binds))
        made = self._run_dir, self._run_dir.parent
        missing = [each for bind in rendered.binds if (each := missing_directory_error(bind, made))]
        if external is None:
            self.faults += missing
        else:  # HAProxy may have other directories
            self.unchecked += missing
        if external is not None and external.file is not None and not external.file.parent.is_dir():
            self.faults.append(f"{external.file} cannot be written: there is no directory {external.file.parent}")
        files = files_of(self._config)
        return Validation(tuple(self.faults), tuple(self.unchecked), self.listens(rendered), files=files)

    def without_check(self, reason: str) -> None:
        """Add what is not checked. Missing files are no fault then: the configuration may be for another machine."""
        self._add_logins(here=False)
        missing = [path for path in referenced_files(self._config) if not path.exists()]
        self.unchecked.append(f"the configuration as HAProxy reads it: {reason}")
        self.unchecked += [f"{path}: it does not exist on this machine, where no HAProxy checks" for path in missing]

    def listens(self, rendered: Rendered) -> tuple[str, ...]:
        """Return the addresses that no other instance can use; an external HAProxy may be in another network."""
        return () if self._config.external else rendered.binds

    def _add_logins(self, *, here: bool) -> None:
        digests = FileDigests().read(password_files(self._config))
        self.faults += [fault.text for fault in login_faults(self._config, digests, here=here)]


def _written(path: Path) -> str:
    """Return the text of a file without its seal; empty if there is no file."""
    return unseal(path.read_text(errors="replace")) if path.exists() else ""


def _diff(path: Path, contents: str) -> str:
    old = _written(path)
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), contents.splitlines(keepends=True), str(path), str(path)
    )
    return "".join(map(without_passwords, lines))
