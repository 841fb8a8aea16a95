"""`discovery history`: the last changes, and how long each consumer of the daemon took for each."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from discovery.cli.console import note, result
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    check_service,
    parsed_option,
)
from discovery.fields import WholeNumber
from discovery.system.terminal import printable

HEADER = ("TIME", "REVISION", "CHANGE", "APPLIED")


def history(
    service: Annotated[str | None, typer.Option(help="Only changes that may concern this service.")] = None,
    limit: Annotated[float, parsed_option(WholeNumber(1, 500), "How many changes, the newest of them.")] = 50,
    as_json: JsonOption = False,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """List the last changes, and the milliseconds that each consumer took for each.

    The time counts from the arrival of the change at the daemon. The newest change is the last line; with --json it is
    the first entry. A daemon keeps 500 changes.

    \b
    discovery history
    discovery history --service web --json
    """
    from discovery.cli.asking import admin_address, ask
    from discovery.cli.table import print_table

    check_service(service)
    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    document = ask(
        admin_address(admin, config, asked_with),
        "/api/history",
        {"service": service, "limit": int(limit)},
    )
    if as_json:
        result(json.dumps(document, indent=2))
        return
    changes = document["changes"]
    if not changes:
        note(f"no change{f' of {service!r}' if service is not None else ''} since the daemon has begun")
        return
    print_table(HEADER, [tuple(map(printable, row)) for each in reversed(changes) for row in rows(each)])


def rows(change: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of a change: the first has the time, the revision and the consumers, the others a backend each."""
    first, *more = list(_lines(change))
    time = str(change["time"]).partition("T")[2].removesuffix("Z")
    yield time, str(change["revision"]), first, ", ".join(_applied(change["consumers"]))
    for line in more:
        yield "", "", line, ""


def _lines(change: Mapping[str, Any]) -> Iterable[str]:
    if change["listing"]:
        yield f"= first listing: {change['added']} backends"
        return
    for each in change["changes"]:
        yield f"{each['mark']} {each['key']} {each['text']}".rstrip()
    if change["more"]:
        yield f"  and {change['more']} more"


def _applied(consumers: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    for name, took in consumers.items():
        if took is None:
            yield f"{name} not yet"
        elif not took["concerned"]:
            yield f"{name} not concerned"
        else:
            failed = f" after {took['failures']} failures" if took["failures"] else ""
            yield f"{name} {took['applied_ms']:.1f} ms{failed}"
