"""How well the daemon is, in a few words: what `/healthz` and `discovery health` have in common. Pure."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal

from discovery.daemon.status import DaemonStatus

Word = Literal["ok", "degraded", "failing"]

_MOST_ENTRIES = 20
_LONGEST_TEXT = 200
"""Entries, and bytes of a name or a text, of a summary, which has to fit into one packet of a Unix socket."""


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
        "waiting_for": [_short(name) for name in islice(waiting, _MOST_ENTRIES)],
        "instances": [_short(name) for name in islice(_instances(status), _MOST_ENTRIES)],
        "problems": _some(status.problems),
        "degraded": _some(status.degraded),
        "broken": _some(status.broken),
    }


def _instances(status: DaemonStatus) -> Iterable[str]:
    yield from (each.name for each in status.consumers)
    yield from (each.runner.name for each in status.providers)


def _some(entries: Mapping[str, str]) -> dict[str, str]:
    return {_short(name): _short(text) for name, text in islice(entries.items(), _MOST_ENTRIES)}


def _short(text: str) -> str:
    plain = text.encode("ascii", "replace").decode("ascii")  # JSON writes six bytes for any other character
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[: _LONGEST_TEXT - 3]}..."
