"""The JSON form of explanations, and the question to the consumers that it takes."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from discovery.admin.explaining import Explanation, Reason, View, explain, keys_of, last_changes
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.consuming.history import Change
from discovery.consuming.runner import ConsumerRunner
from discovery.documents import backend_document
from discovery.model import Backend


async def explained(sources: Sources, service: str, id_: str | None, *, most: int, seconds: float) -> dict[str, Any]:
    """Return the document of the record with this id, or of the first `most` records of `service` by key.

    Each consumer has `seconds` to tell what it makes of them.
    """
    status = sources.status()
    if id_ is None:
        keys, more = keys_of(status, service, most, last_changes(sources.changes(), service).removed)
    else:
        keys, more = [f"{service}/{id_}"], 0
    runners = list(sources.consumers().values())
    there = status.snapshot.services.get(service) if status.snapshot is not None else None
    ids = (key.partition("/")[2] for key in keys)
    backends = [each for id_ in ids if there is not None and (each := there.get(id_)) is not None]
    views = await asyncio.gather(*(_view(each, backends, seconds) for each in runners))
    return explain_document(sources.status(), views, sources.changes(), service, keys, more=more)


def explain_document(
    status: DaemonStatus,
    views: Iterable[View],
    changes: Sequence[Change],
    service: str,
    keys: Sequence[str],
    *,
    more: int = 0,
) -> dict[str, Any]:
    """Return the explanations of `keys`, records of `service` that has `more` others, as an object of JSON."""
    views, last = tuple(views), last_changes(changes, service)
    return {
        "service": service,
        "registry": status.registry,
        "revision": status.snapshot.revision if status.snapshot is not None else None,
        "connected": status.connected,
        "records": [_explanation(explain(status, views, last, key)) for key in keys],
        "more": more,
    }


async def _view(runner: ConsumerRunner, backends: Sequence[Backend], seconds: float) -> View:
    before = runner.applied
    applied = [
        each
        for each in backends
        if before is not None and (there := before.services.get(each.service)) is not None and there.get(each.id)
    ]
    rendered = await runner.explain(applied, seconds) if applied else {}
    return View(runner.status, runner.instance.filter, runner.applied, runner.history.applies, rendered)


def _explanation(each: Explanation) -> dict[str, Any]:
    return {
        "key": each.key,
        "used": each.used,
        "backend": None if each.backend is None else backend_document(each.backend),
        "owner": each.owner,
        "reasons": [_reason(reason) for reason in each.reasons],
        "consumers": [live._asdict() | {"seconds": _rounded(live.seconds)} for live in each.consumers],
    }


def _reason(each: Reason) -> dict[str, Any]:
    return {"kind": each.kind, "text": each.text, "instance": each.instance, "seconds": _rounded(each.seconds)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
