"""The state of a daemon, and its last changes, as the lines of one screen. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from discovery.cli.history import HEADER as HISTORY
from discovery.cli.history import rows as history_rows
from discovery.cli.table import table_lines
from discovery.cli.timing import duration
from discovery.system.terminal import printable

MEMBERS = ("MEMBER", "ENDPOINT", "ROLE", "VERSION", "DATABASE", "STATE")
INSTANCES = ("NAME", "PLUGIN", "STATE", "PHASE", "DOES")


def status_lines(document: Mapping[str, Any], width: int | None = None) -> Iterator[str]:
    """Yield what `/api/status` tells: a summary, the registry, the instances, and what is wrong.

    Tables are not wider than `width`, the columns of a terminal; None for no terminal.
    """
    ready = "ready" if document["ready"] else f"not ready: {', '.join(document['waiting_for'])}"
    yield f"{document['status']}, {ready}"
    yield _registry(document["registry"])
    yield from _members(document["registry"].get("members"), width)  # an older daemon does not tell
    counts = ((document[name], name) for name in ("services", "backends", "down", "rejected", "held", "unresolved"))
    yield ", ".join(f"{count} {name}" for count, name in counts if count or name in ("services", "backends"))
    yield ""
    rows = [*map(_consumer, document["consumers"]), *map(_provider, document["providers"])]
    yield from _table(INSTANCES, rows, width)
    wrong = [f"{name}: {text}" for kind in ("problems", "broken", "degraded") for name, text in document[kind].items()]
    if document["config_error"] is not None:
        wrong.append(f"configuration: {document['config_error']}")
    if wrong:
        yield ""
        yield from map(printable, wrong)


def change_lines(document: Mapping[str, Any], width: int | None = None) -> Iterator[str]:
    """Yield what `/api/history` tells, the newest change first; `width` as for `status_lines`."""
    rows = [row for each in document["changes"] for row in history_rows(each)]
    if rows:
        yield from _table(HISTORY, rows, width)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    return table_lines(header, [tuple(map(printable, cells)) for cells in rows], width)


def _registry(registry: Mapping[str, Any]) -> str:
    state = {True: "followed", False: "not followed", None: "not asked for"}[registry["connected"]]
    told = f"{registry['url']}: {state}"
    if registry["revision"] is not None:
        told += f", revision {registry['revision']}"
    if registry["stale"] is not None:
        told += f", {duration(registry['snapshot_age_seconds'] or 0.0)} old: {registry['stale']}"
    return printable("; ".join((told, *registry["alarms"])))


def _members(document: Mapping[str, Any] | None, width: int | None) -> Iterator[str]:
    if document is None:
        return
    if document["members"]:
        yield from _table(MEMBERS, [_member(each) for each in document["members"]], width)
    if document["reason"] is not None:
        yield printable(document["reason"])


def _member(each: Mapping[str, Any]) -> tuple[str, ...]:
    size = "-" if each["size_bytes"] is None else f"{each['size_bytes'] / 1e6:.1f} MB"
    told = (each["name"], ", ".join(each["endpoints"]), each["role"], each["version"])
    return (*(text or "-" for text in told), size, ": ".join(filter(None, (each["state"], each["reason"]))))


def _consumer(each: Mapping[str, Any]) -> tuple[str, ...]:
    revision = each["applied_revision"]
    does = "has applied nothing" if revision is None else f"has applied revision {revision}"
    if each["lag_seconds"]:
        does += f", {duration(each['lag_seconds'])} behind"
    if each["applies"]:
        does += f", {duration(each['apply_seconds'] / each['applies'])} an apply"
    if each["down"]:
        does += f", {each['down']} down"
    return each["name"], each["plugin"], each["state"], each["phase"], does


def _provider(each: Mapping[str, Any]) -> tuple[str, ...]:
    does = f"has registered {each['registered']} of {each['candidates']}"
    return each["name"], each["plugin"], each["state"], each["phase"], does
