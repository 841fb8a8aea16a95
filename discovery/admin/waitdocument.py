"""The long poll of the admin endpoint: waits for a state, and tells as JSON whether it has come."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from itertools import chain
from typing import Any

from discovery.admin.awaited import Awaited, Awaiting, Standing
from discovery.admin.query import service_of, whole_number
from discovery.admin.sources import Sources
from discovery.admin.waiters import TooManyWaitersError, Waiters
from discovery.fields import Duration

LONGEST = 25.0
"""Seconds of a poll, at most: the server ends a connection after 30."""
_USAGE = "/api/wait?service=NAME&backends=N&at_most=N&applied_by=CONSUMER&revision=R&timeout=DURATION"
_POLL = Duration(most=LONGEST, zero="look once")
_MOST_BACKENDS = 1_000_000_000
"""The largest number of backends that is taken for one."""
_MOST_PATTERNS = 32
"""Consumers, or patterns of their names, in a query: a query is looked at in one piece."""
_LONGEST_PATTERN = 200
"""Characters of one: `fnmatch` takes seconds for a pattern of thousands, in which the core does nothing else."""
_MOST_REVISION = 2**63 - 1
"""The largest revision of etcd."""


def awaited_of(query: Any) -> tuple[Awaited, float]:
    """Return what a query (a multidict) asks to wait for, and the seconds. Raises ValueError with the rule."""
    service = service_of(query, _USAGE)
    limited = "at_most" in query
    least = whole_number(query, "backends", least=0, most=_MOST_BACKENDS, default=0 if limited else 1)
    most = whole_number(query, "at_most", least=0, most=_MOST_BACKENDS, default=0) if limited else None
    if most is not None and most < least:
        raise ValueError(f"at_most is {most}, and backends {least}: both can never be so")
    revision = whole_number(query, "revision", least=0, most=_MOST_REVISION, default=0)
    seconds = _POLL.parse(query.get("timeout", LONGEST))
    names = tuple(dict.fromkeys(query.getall("applied_by", ())))
    if len(names) > _MOST_PATTERNS:
        raise ValueError(f"applied_by names {len(names)} consumers, more than {_MOST_PATTERNS}: use wildcards")
    if any(len(each) > _LONGEST_PATTERN for each in names):
        raise ValueError(f"applied_by has to be the name of a consumer, with at most {_LONGEST_PATTERN} characters")
    return Awaited(service, least, most, revision or None, names), seconds


async def wait_document(
    sources: Sources, waiters: Waiters, awaited: Awaited, seconds: float, is_over: Callable[[], bool], most: int
) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the document, once the state has come, or `seconds` have passed, or `is_over`.

    If `most` wait already, the status is 503.
    """
    consumers = sources.consumers()
    meant = {each: _meant(each, consumers) for each in awaited.applied_by}
    if unknown := [each for each, names in meant.items() if not names]:
        names = ", ".join(consumers) or "none"
        return 404, {"error": f"there is no consumer {unknown[0]!r}; there are: {names}"}
    awaited = awaited._replace(applied_by=tuple(dict.fromkeys(chain.from_iterable(meant.values()))))
    awaiting, standing = Awaiting(awaited), Standing(None, {}, {})

    def is_met() -> bool:
        nonlocal standing
        standing = awaiting.look({**_applied(sources), "": sources.snapshot()})
        return standing.missing is None

    try:
        met = await waiters.wait(is_met, seconds, is_over, most)
    except TooManyWaitersError:
        return 503, {"error": "too many wait already; ask again"}
    return 200, {
        "met": met,
        "waiting_for": standing.missing,
        "service": awaited.service,
        "backends": dict(standing.backends),
        "revisions": dict(standing.revisions),
        "problems": _problems(sources, awaited),
    }


def _meant(text: str, consumers: Iterable[str]) -> tuple[str, ...]:
    """Return the consumers that `text` names: a name, or a pattern with `*`, `?` and `[...]`, as those of a filter."""
    names = tuple(consumers)
    if text in names:
        return (text,)
    pattern = re.compile(translate(text))  # `fnmatchcase` would keep tens of thousands of patterns of strangers
    return tuple(name for name in names if pattern.match(name))


def _applied(sources: Sources) -> Mapping[str, Any]:
    return {name: runner.applied for name, runner in sources.consumers().items()}


def _problems(sources: Sources, awaited: Awaited) -> dict[str, str]:
    """Return why the consumers that are waited for are not well."""
    statuses = {name: runner.status for name, runner in sources.consumers().items() if name in awaited.applied_by}
    return {name: status.problem for name, status in statuses.items() if status.problem is not None}
