"""`discovery services`: lists the present contents of the registry."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from discovery.cli.reading import read_registry
from discovery.system.terminal import printable

if TYPE_CHECKING:
    from discovery.model import Rejected, Snapshot

LOOKUP_SECONDS = 2.0
"""Seconds for the lookup of the backends' host names, after the list is printed: a person waits for the end."""


def services(
    service: Annotated[str | None, typer.Argument(help="Only this service.")] = None,
    health: Annotated[
        bool, typer.Option("--health", help="Ask a daemon which backends its consumers find down.")
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    registry: RegistryOption = None,
    config: ConfigOption = None,
) -> None:
    """List services, backends and rejected records.

    \b
    discovery services
    discovery services web --json --registry etcd://10.0.0.1:2379,10.0.0.2:2379
    """
    from discovery.documents import snapshot_document

    check_service(service)
    url = settings_of(config, registry=registry).registry
    snapshot, owners = run_coroutine(read_registry(url, timeout))
    if service is not None:
        snapshot = _only(snapshot, service)
    down = _down(admin, config, AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)) if health else {}
    if as_json:
        result(json.dumps(snapshot_document(snapshot, owners.by_key) | ({"down": down} if health else {}), indent=2))
        return
    from discovery.cli.records import HEADER, row
    from discovery.cli.table import print_table
    from discovery.model import State

    backends = list(snapshot.backends())
    if backends:
        rows = [_with_health(row(each), down.get(each.key)) if health else row(each) for each in backends]
        header = _with_health(HEADER, {"HEALTH": ""}) if health else HEADER
        print_table(header, rows, [each.state is State.DRAINING or each.key in down for each in backends])
    else:
        note(f"no backends{f' of {service!r}' if service is not None else ''} in {url}")
    if snapshot.rejected or snapshot.more_rejected:
        _print_rejected(snapshot.rejected, snapshot.more_rejected, below=bool(backends))
    if any(each.is_named for each in backends):
        from discovery.consuming.resolving import resolve

        _, unresolved = run_coroutine(resolve(snapshot, min(timeout, LOOKUP_SECONDS)))
        _print_unresolved(unresolved)


def _down(admin: str | None, config: Path | None, files: AdminFiles) -> dict[str, dict[str, str]]:
    """Return the reasons of the consumers that find a backend down, by key and consumer. Raises NoDaemonError."""
    from discovery.cli.asking import admin_address, ask

    found: dict[str, dict[str, str]] = {}
    for consumer in ask(admin_address(admin, config, files), "/api/consumers")["consumers"]:
        for key, reason in consumer.get("down", {}).items():
            found.setdefault(key, {})[consumer["name"]] = reason
    return found


def _with_health(cells: Sequence[str], down: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return a row with the column of the health before the labels, which are long and stay the last."""
    told = "-" if down is None else "; ".join(f"{name}: {reason}" if reason else name for name, reason in down.items())
    return (*cells[:-1], printable(told), cells[-1])


def _only(snapshot: "Snapshot", service: str) -> "Snapshot":
    from discovery.model import Snapshot

    rejected = (each for each in snapshot.rejected if each.key.partition("/")[0] == service)
    backends = (each for each in snapshot.backends() if each.service == service)
    return Snapshot.of(snapshot.revision, backends, rejected, snapshot.more_rejected)


def _print_rejected(rejected: Sequence["Rejected"], more: int, *, below: bool) -> None:
    from discovery.cli.records import rejected_line

    if below:
        result("")
    result(f"Rejected records ({len(rejected)}):")
    for each in rejected:
        result(f"  {rejected_line(each)}")
    if more:
        result(f"  and {more} more in the registry, whose reasons are not kept")


def _print_unresolved(unresolved: Mapping[tuple[str, str], str]) -> None:
    if unresolved:
        result("")
        result(f"Host names that this machine cannot look up ({len(unresolved)}):")
    for key, problem in unresolved.items():
        result(f"  {'/'.join(key)}: {problem}")
