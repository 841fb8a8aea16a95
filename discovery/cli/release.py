"""`discovery release`: give up records that a daemon serves although the registry has removed them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from discovery.cli.console import note, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import ConfigOption, JsonOption, RunDirOption, check_service, settings_of


def release(
    service: Annotated[str | None, typer.Argument(help="Only records of this service. Default: all.")] = None,
    as_json: JsonOption = False,
    run_dir: RunDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Give up held records: a daemon serves a held record although the registry has removed the record.

    After a gap (the registry was suspended, or came back without its data) a daemon does not apply removals at once. A
    held record of a lease is given up after a while if it does not return; other records after a reset are not.
    /healthz of the daemon shows the held records. This command asks every daemon of the run directory, and must run as
    the daemons' user.

    \b
    discovery release
    discovery release web --run-dir /run/discovery
    """
    from discovery.errors import DiscoveryError
    from discovery.system.rundir import run_dir_path

    check_service(service)
    directory = run_dir_path(settings_of(config, run_dir=run_dir).run_dir)
    answers = run_coroutine(_ask(directory, service))
    if not answers:
        raise DiscoveryError(
            f"no daemon runs on the run directory {directory}; start a daemon, or name its run directory with --run-dir"
        )
    released = sorted({key for keys in answers for key in keys})
    if as_json:
        result(json.dumps({"released": released}, indent=2))
        return
    for key in released:
        result(key)
    if not released:
        note(f"nothing of {service!r} is held" if service is not None else "nothing is held")


async def _ask(directory: Path, service: str | None) -> list[tuple[str, ...]]:
    """Return the keys that each daemon of the run directory has released."""
    from discovery.daemon.takeover import release, sockets_of

    answers = [await release(path, service) for path in sockets_of(directory)]
    return [keys for keys in answers if keys is not None]
