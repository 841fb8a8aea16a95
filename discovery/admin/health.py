"""How well the daemon is, in a few words: what `/healthz` and `discovery health` have in common. Pure."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal
from zlib import crc32

from discovery.admin.status import DaemonStatus

Word = Literal["ok", "degraded", "failing"]

_MOST_ENTRIES = 20
"""Entries of a summary, which has 8 times as many names and texts, and has to fit into one packet of a Unix socket."""
_LONGEST_TEXT = 200
"""Bytes in JSON of a name or a text of a summary, for the same reason."""


def word(status: DaemonStatus) -> Word:
    """Return the state in one word.

    An unreachable registry, or name server, is no illness: to be restarted for it would lose what we serve.
    """
    if status.problems:
        return "failing"
    return "degraded" if status.degraded or status.broken else "ok"


def summary(status: DaemonStatus) -> dict[str, Any]:
    """Return the state as an object of JSON of limited size: the word, what is wrong, and what is waited for."""
    waiting = status.waiting_for
    return {
        "status": word(status),
        "ready": not waiting,
        "waiting_for": [_short_name(name) for name in islice(waiting, _MOST_ENTRIES)],
        "instances": [_short_name(name) for name in islice(_instances(status), _MOST_ENTRIES)],
        "problems": bounded(status.problems),
        "degraded": bounded(status.degraded),
        "broken": bounded(status.broken),
    }


def _instances(status: DaemonStatus) -> Iterable[str]:
    yield from (each.name for each in status.consumers)
    yield from (each.runner.name for each in status.providers)


def bounded(entries: Mapping[str, str]) -> dict[str, str]:
    """Return the first of `entries`, each cut to a length."""
    return {_short_name(name): _short(text) for name, text in islice(entries.items(), _MOST_ENTRIES)}


def _short_name(name: str) -> str:
    """Return `name`, or its beginning and a checksum, so that names with one beginning still differ."""
    return _short(name, f"...{crc32(json.dumps(name).encode()):08x}")


def _short(text: str, mark: str = "...") -> str:
    """Return `text`, or its beginning and `mark`, so that the JSON has at most _LONGEST_TEXT bytes."""
    if len(text) <= _LONGEST_TEXT and _bytes(text) <= _LONGEST_TEXT:
        return text
    head = text[:_LONGEST_TEXT]
    while _bytes(head) + len(mark) > _LONGEST_TEXT:
        head = head[:-1]
    return head + mark


def _bytes(text: str) -> int:
    return len(json.dumps(text)) - 2  # the quotes; up to 12 bytes a character
