"""`discovery health`: tells how well the daemons of a run directory are, for health checks of containers."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import ConfigOption, JsonOption, RunDirOption


def health(
    ready: Annotated[
        bool, typer.Option("--ready", help="Fail also while a daemon is not ready, as /readyz does.")
    ] = False,
    as_json: JsonOption = False,
    run_dir: RunDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Tell how well the daemons of a run directory are. The exit code is 0 if all are well, and 1 otherwise.

    A daemon is failing if a consumer or provider of the daemon is, as for /healthz. A registry that is away, and a
    consumer that does a part of its work, are no failures. Every command that runs plugins is a daemon here: `run`,
    `ambassador`, `forward` and `register-container`. This command needs no admin endpoint, and must run as the daemons'
    user.

    \b
    discovery health
    discovery health --ready --json
    """
    from discovery.errors import DiscoveryError
    from discovery.system.rundir import run_dir_path

    directory = run_dir_path(_configured_run_dir(config) if run_dir is None else run_dir)
    daemons = run_coroutine(_ask(directory))
    if not daemons and not as_json:
        raise DiscoveryError(
            f"no daemon runs on the run directory {directory}; start a daemon, or name its run directory with --run-dir"
        )
    healthy = bool(daemons) and all(_is_well(each, ready=ready) for each in daemons)
    if as_json:
        result(json.dumps({"run_dir": str(directory), "healthy": healthy, "daemons": daemons}, indent=2))
        return 0 if healthy else 1
    for each in daemons:
        result(_line(each))
        for kind in ("problems", "broken", "degraded"):
            for name, reason in each.get(kind, {}).items():
                note(f"{name}: {reason}")
    return 0 if healthy else 1


def _configured_run_dir(config: Path | None) -> Path | None:
    """Return the run directory that the file in use names; None if it names none, or if there is no such file.

    No other setting of the file is looked at: a daemon may run well with an earlier text of the file. Raises
    DiscoveryError, never ConfigError, whose exit code 2 is reserved in a health check of Docker.
    """
    from discovery.daemon.configfile import file_in_use, read_file
    from discovery.errors import ConfigError, DiscoveryError

    if (path := file_in_use(config)) is None:
        return None
    try:
        named = read_file(path).get("run_dir")
    except ConfigError as error:
        raise DiscoveryError(f"{error}; the run directory is not known: name it with --run-dir") from None
    if named is not None and not isinstance(named, str):
        raise DiscoveryError(f"{path}: run_dir: must be a string; name the run directory with --run-dir")
    return None if named is None else Path(named)


async def _ask(directory: Path) -> list[dict[str, Any]]:
    """Return the answer of each daemon of the run directory. One that does not answer is failing."""
    from discovery.daemon.takeover import health, sockets_of
    from discovery.errors import DiscoveryError

    daemons: list[dict[str, Any]] = []
    for path in sockets_of(directory):
        try:
            answer = await health(path)
        except DiscoveryError as error:
            daemons.append({"pid": None, "status": "failing", "ready": False, "problems": {path.name: str(error)}})
        else:
            if answer is not None:
                daemons.append({"pid": answer[0], **answer[1]})
    return daemons


def _is_well(daemon: dict[str, Any], *, ready: bool) -> bool:
    return daemon.get("status") in ("ok", "degraded") and (not ready or bool(daemon.get("ready")))


def _line(daemon: dict[str, Any]) -> str:
    what = "a daemon" if daemon["pid"] is None else f"process {daemon['pid']}"
    names = daemon.get("instances")
    waiting = daemon.get("waiting_for")
    return (
        f"{what}: {daemon.get('status')}"
        + (f" ({', '.join(names)})" if names else "")
        + (f", not ready: {', '.join(waiting)}" if waiting else "")
    )
