"""`discovery explain`: tells of each record whether it is used, and if not, why."""

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
    check_service,
    settings_of,
)
from discovery.cli.records import backend_line
from discovery.cli.timing import duration
from discovery.documents import backend_of
from discovery.errors import ConfigError, DiscoveryError
from discovery.system.terminal import printable

if TYPE_CHECKING:
    from discovery.registry import RegistryURL

MOST_ALONE = 200
"""Records that are explained without a daemon, as many as a daemon explains."""
LOOKUP_SECONDS = 2.0
"""Seconds for the lookup of the backends' host names: a person waits for the end."""


def explain(
    record: Annotated[str, typer.Argument(metavar="SERVICE[/ID]", help="A service, or one of its records.")],
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    registry: RegistryOption = None,
    config: ConfigOption = None,
) -> int:
    """Tell of each record of a service whether it is used, and if not, why.

    A daemon of this machine is asked: what its providers and consumers know. If none answers, the registry alone is
    read, the questions that stay open are named, and the exit code is 1.

    \b
    discovery explain web
    discovery explain web/b1 --json
    """
    from discovery.cli.asking import NoDaemonError, admin_address, ask

    service, id_ = _named(record)
    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    try:
        document = ask(
            admin_address(admin, config, asked_with),
            "/api/explain",
            {"service": service, "id": id_ or None},
        )
    except NoDaemonError as error:
        document = _alone(config, registry, service, id_, timeout, str(error))
    if as_json:
        result(json.dumps(document, indent=2))
    else:
        for line in lines(document):
            result(printable(line.expandtabs()))
        if not document["records"]:
            note(f"no record of {service!r} in {document['registry']}")
        if document["more"]:
            note(f"and {document['more']} more records; name one: {service}/ID")
        if "not_asked" not in document and any(map(_is_absent, document["records"])):
            note(
                "why a record is absent is known to the daemon that registers it: `discovery fleet` lists the daemons"
                " that announce themselves; ask it with --admin"
            )
        for each in document.get("not_asked", ()):
            note(f"not known: {each}")
    return 1 if "not_asked" in document else 0


def _named(record: str) -> tuple[str, str]:
    """Return the service and the id of `SERVICE[/ID]`, an empty id for the service. Raises ConfigError."""
    service, slash, id_ = record.partition("/")
    if slash and (not service or not id_ or "/" in id_):
        raise ConfigError(
            f"{record!r} is not SERVICE[/ID]: name a service, such as web, or one of its records, such as web/b1;"
            " the service has the records with other keys, too"
        )
    check_service(service)
    return service, id_


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for a person: one for each record, and below it its owner, reasons and consumers."""
    for record in document["records"]:
        what = record["key"] if record["backend"] is None else backend_line(backend_of(record["backend"]))
        yield f"{what}: {_used(record)}"
        if record.get("owner"):
            yield f"  owner {record['owner']}"
        for reason in record["reasons"]:
            instance = f"{reason['instance']}: " if reason["instance"] else ""
            lasting = f" for {duration(reason['seconds'])}" if reason["seconds"] is not None else ""
            yield f"  {instance}{reason['kind'].replace('-', ' ')}{lasting}: {reason['text']}"
        for each in record["consumers"]:
            yield f"  {each['consumer']}: {_state(each)}"
            for line in each["rendered"] or ():
                yield f"    {line}"


def _is_absent(record: Mapping[str, Any]) -> bool:
    return any(reason["kind"] == "absent" for reason in record["reasons"])


def _used(record: Mapping[str, Any]) -> str:
    """Return whether the record is used, and of several consumers that differ, by which of them."""
    if record["used"] is None:
        return "in the registry" if record["backend"] else "not there"
    idle = [each for each in record["consumers"] if not each.get("used", True)]  # an older daemon does not tell
    if not record["used"] or not idle:
        return "used" if record["used"] else "not used"
    why = {each["instance"]: each["kind"].replace("-", " ") for each in record["reasons"]}
    without = (f"{each['consumer']} ({why.get(each['consumer'], 'not live')})" for each in idle)
    users = (each["consumer"] for each in record["consumers"] if each["used"])
    return f"used by {', '.join(users)}, but not by {', '.join(without)}"


def _state(consumer: Mapping[str, Any]) -> str:
    return f"{_has(consumer)}, down" if consumer.get("down") is not None else _has(consumer)


def _has(consumer: Mapping[str, Any]) -> str:
    at = "" if consumer["revision"] is None else f" at revision {consumer['revision']}"
    if not consumer["live"]:
        return f"an earlier form is live{at}" if consumer["outdated"] else f"not live{at}"
    seconds = consumer["seconds"]
    return f"live{at}, " + (
        f"for {duration(seconds)}" if seconds is not None else "for longer than the history reaches"
    )


def _alone(
    config: Path | None, registry: str | None, service: str, id_: str, timeout: float, reason: str
) -> dict[str, Any]:
    """Return what the registry alone tells. Raises DiscoveryError if it tells nothing either."""
    from discovery.admin.explaindocument import explain_document
    from discovery.admin.explaining import keys_of

    url = settings_of(config, registry=registry).registry
    try:
        status = run_coroutine(_status(url, service, timeout))
    except DiscoveryError as error:
        raise DiscoveryError(f"{reason}; and nothing is known of the registry: {error}") from None
    keys, more = ([f"{service}/{id_}"], 0) if id_ else keys_of(status, service, MOST_ALONE)
    document = explain_document(status, (), (), service, keys, more=more)
    return {
        **document,
        "not_asked": [
            f"whether a consumer uses it: {reason}",
            "whether a provider of this machine has found it and does not register it, for the same reason",
        ],
    }


async def _status(url: "RegistryURL", service: str, timeout: float) -> Any:
    from discovery.admin.status import DaemonStatus
    from discovery.cli.reading import read_registry
    from discovery.consuming.resolving import resolve
    from discovery.model import Snapshot

    snapshot, owners = await read_registry(url, timeout)
    there = snapshot.services.get(service)
    of_service = Snapshot(snapshot.revision, {} if there is None else {service: there})
    resolved, unresolved = await resolve(of_service, min(timeout, LOOKUP_SECONDS))
    return DaemonStatus(str(url), snapshot=snapshot, addresses=resolved.addresses, unresolved=unresolved, owners=owners)
