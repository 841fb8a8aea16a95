"""`discovery stop`: ends the daemons of a run directory, and processes that have outlived a daemon."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from discovery.cli.console import note, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import ConfigOption, JsonOption, RunDirOption, parsed_option, settings_of, start_logging
from discovery.fields import Duration

if TYPE_CHECKING:
    from discovery.daemon.stopping import Orphan, RunningDaemon

_NOTE_SECONDS = 2.0
"""Seconds of waiting for a daemon before a note: shorter waits need no explanation."""


def stop(
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    timeout: Annotated[
        float, parsed_option(Duration(zero="do not wait"), "Time for each daemon to stop in order.")
    ] = 90.0,
    as_json: JsonOption = False,
) -> int:
    """Stop every daemon of a run directory, and the processes that have outlived a killed daemon.

    Sends SIGTERM to each daemon, and waits for its end. The workers of the TCP proxy and a HAProxy survive a killed
    daemon, so that the next daemon can take over; this command ends them in order. Prints what was ended. The exit code
    is 1 if something could not be ended, and 0 also if nothing runs.

    \b
    discovery stop
    discovery stop --run-dir /run/edge --json
    """
    from discovery.system.rundir import check_run_dir, run_dir_path

    settings = settings_of(config, run_dir=run_dir)
    start_logging(settings)
    where = run_dir_path(settings.run_dir)
    if where.exists():
        check_run_dir(where)
    ended, failed = run_coroutine(_stop(where, timeout))
    if as_json:
        result(json.dumps({"run_dir": str(where), "ended": ended, "failed": failed}, indent=2))
        return 1 if failed else 0
    for each in ended:
        of = f" of {each['instance']}" if "instance" in each else f" ({', '.join(each['instances'])})"
        result(f"stopped {each['what']}, process {each['pid']}{of if of != ' ()' else ''}")
    for failure in failed:
        note(failure["reason"])
    if not ended and not failed:
        note(f"nothing runs on {where}")
    return 1 if failed else 0


async def _stop(run_dir: Path, timeout: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    import structlog

    from discovery.daemon.stopping import end_orphans, find_daemons
    from discovery.errors import DiscoveryError

    ended: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    busy: set[str] = set()
    found: set[int] = set()
    # Repeated: a daemon that was about to take over from one of these may have started since then.
    while running := [each for each in find_daemons(run_dir) if each.pid not in found]:
        outcomes = await asyncio.gather(*(_end(each, timeout) for each in running), return_exceptions=True)
        for daemon, outcome in zip(running, outcomes, strict=True):
            found.add(daemon.pid)
            described = {"what": "daemon", "pid": daemon.pid, "instances": list(daemon.instances)}
            if isinstance(outcome, DiscoveryError):
                failed.append({**described, "reason": str(outcome)})
                busy |= set(daemon.instances)
            elif outcome is not None:
                raise outcome
            else:
                ended.append(described)
    orphans, left = await end_orphans(run_dir, structlog.get_logger())
    ended += [_orphan(each) for each in orphans]
    failed += [{"instance": name, "reason": reason} for name, reason in left.items() if name not in busy]
    return ended, failed


async def _end(daemon: "RunningDaemon", timeout: float) -> None:
    from discovery.daemon.stopping import stop_daemon
    from discovery.system.asyncio_tools import wait_for_tasks

    ending = asyncio.ensure_future(stop_daemon(daemon, timeout))
    if not await wait_for_tasks({ending}, _NOTE_SECONDS):
        note(f"process {daemon.pid} is stopping; its connections may finish")
    await ending


def _orphan(orphan: "Orphan") -> dict[str, Any]:
    return {"what": orphan.what, "pid": orphan.pid, "instance": orphan.instance}
