"""`discovery fleet`: the daemons that are announced in the registry, and how they are."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    RegistryOption,
    TimeoutOption,
    settings_of,
)
from discovery.cli.timing import duration
from discovery.system.terminal import printable

if TYPE_CHECKING:
    from discovery.registry import RegistryURL

HEADER = ("MACHINE", "ADDRESS", "VERSION", "ROLES", "STATE", "APPLIED", "LAG", "WHAT IS WRONG")
_ASK_SECONDS = 20.0
"""Seconds for the answer of the daemon, which lists the records and then asks all others."""


def fleet(
    as_json: JsonOption = False,
    wide: Annotated[bool, typer.Option("--wide", help="Also the run directory and the start of each daemon.")] = False,
    timeout: TimeoutOption = 10.0,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    registry: RegistryOption = None,
    config: ConfigOption = None,
) -> int:
    """List the daemons that announce themselves (`announce = true`), and how each is.

    A daemon of this machine is asked, which asks all others. If none answers, the registry alone is read. The exit code
    is 0 if every daemon is well or does a part of its work, and 1 if a daemon is failing, cannot be reached or has an
    invalid record, or if the registry alone was read.

    \b
    discovery fleet
    discovery fleet --json
    """
    from discovery.cli.asking import NoDaemonError, admin_address, ask
    from discovery.cli.table import print_table
    from discovery.fleet.fleetdocument import is_well

    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    try:
        document = ask(
            admin_address(admin, config, asked_with),
            "/api/fleet",
            timeout=_ASK_SECONDS,
        )
        alone = None
    except NoDaemonError as error:
        document = _alone(config, registry, timeout, str(error))
        alone = str(error)
    if as_json:
        result(json.dumps(document, indent=2))
    else:
        rows = [_row(each, wide=wide) for each in document["daemons"]]
        if rows:
            print_table(HEADER if not wide else (*HEADER[:-1], "SINCE", "RUN DIRECTORY", HEADER[-1]), rows)
        for each in document["invalid"]:
            result(f"invalid record {printable(each['key'])}: {printable(each['reason'])}")
        for line in _notes(document, alone):
            note(line)
    return 0 if alone is None and is_well(document) else 1


def _row(daemon: Mapping[str, Any], *, wide: bool) -> tuple[str, ...]:
    applied = daemon["applied_revision"]
    more = (daemon["since"], daemon["run_dir"]) if wide else ()
    cells = (
        daemon["machine"] + (" (asked)" if daemon["own"] else ""),
        daemon["address"],
        daemon["version"],
        ",".join(daemon["roles"]) or "-",
        daemon["state"],
        "-" if applied is None else str(applied),
        "-" if daemon["lag_seconds"] is None else duration(daemon["lag_seconds"]) if daemon["lag_seconds"] else "0",
        *more,
        "; ".join(_wrong(daemon)),
    )
    return tuple(map(printable, cells))


def _wrong(daemon: Mapping[str, Any]) -> Iterator[str]:
    if daemon["reason"] is not None:
        yield daemon["reason"]
    if daemon["connected"] is False:
        yield "it does not reach the registry"
    for name, text in daemon["problems"].items():
        yield f"{name}: {text}"
    if daemon["ready"] is False:
        yield f"not ready: {', '.join(daemon['waiting_for'])}"


def _notes(document: Mapping[str, Any], alone: str | None) -> Iterator[str]:
    if alone is not None:
        yield f"not known: how the daemons are: {alone}"
    if document["reason"] is not None:
        yield f"the daemons cannot be listed: {document['reason']}"
    elif not document["daemons"] and not document["invalid"]:
        yield "no daemon is announced; `announce = true` in its configuration announces a daemon"
    if document["more"]:
        yield f"and {document['more']} more daemons"
    if document["more_invalid"]:
        yield f"and {document['more_invalid']} more invalid records"


def _alone(config: Path | None, registry: str | None, timeout: float, reason: str) -> dict[str, Any]:
    from discovery.fleet.place import fleet_url

    settings = settings_of(config, registry=registry)
    return run_coroutine(_read(fleet_url(settings.registry, settings.fleet.prefix), timeout, reason))


async def _read(url: "RegistryURL", timeout: float, reason: str) -> dict[str, Any]:
    from discovery.cli.reading import read_registry
    from discovery.fleet.asking import Answered
    from discovery.fleet.fleetdocument import fleet_document
    from discovery.fleet.survey import Member, Surveyed, members_in

    listed = members_in((await read_registry(url, timeout)).snapshot)
    members = tuple(Member(each, Answered(None, "not asked: no daemon answers here")) for each in listed.announcements)
    surveyed = Surveyed(members, listed.more, listed.invalid, listed.more_invalid)
    return {**fleet_document(surveyed, "", announced=None), "age_seconds": 0.0, "not_asked": [reason]}
