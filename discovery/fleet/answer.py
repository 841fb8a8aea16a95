"""The answer of a daemon that was asked how it is: what is believed of it. Pure.

Whoever listens at an announced address may answer anything: each part is checked and cut to a length, and the rest is
left out.
"""

import json
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 64 * 1024
"""Bytes of an answer: `fleet_member` writes less."""
_MOST_ENTRIES = 20
"""Entries of a table, as many as a daemon tells."""
_LONGEST_TEXT = 200
"""Characters of a text, as many as a daemon tells."""
_LARGEST = 2**63
"""A number that no revision and no count of backends reaches; JSON allows any number of digits."""
_WRONG = ("unregistered", "problems", "broken", "degraded")
"""Tables of what is wrong, by the names of instances; of two about one instance the later, the graver, counts."""
WORDS = ("ok", "degraded", "failing")


class AnswerError(Exception):
    """The answer is of no use; the message says why."""


def answer_of(body: bytes, id_: str) -> dict[str, Any]:
    """Return what the daemon `id_` tells of itself. Raises AnswerError, also if another daemon answers."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise AnswerError("what answers is no daemon: the answer is no JSON") from None
    if not isinstance(told, dict) or told.get("status") not in WORDS or not isinstance(told.get("id"), str):
        raise AnswerError("what answers is no daemon of this version")
    if told["id"] != id_:
        raise AnswerError("another daemon answers at its address")
    return {
        "state": told["status"],
        "version": _text(told.get("version")),
        "registry": _text(told.get("registry")),
        "connected": _flag(told.get("connected")),
        "ready": told.get("ready") is True,
        "waiting_for": _texts(told.get("waiting_for")),
        "instances": _texts(told.get("instances")),
        "services": _number(told.get("services")),
        "backends": _number(told.get("backends")),
        "revision": _number(told.get("revision")),
        "applied_revision": _number(told.get("applied_revision")),
        "lag_seconds": _number(told.get("lag_seconds")),
        "problems": {name: text for kind in _WRONG for name, text in _table(told.get(kind))},
    }


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _number(value: object) -> float | int | None:
    """Return a number from 0 on; also `nan`, which JSON does not have and Python reads, is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
        return None
    return value


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    short = value[:_LONGEST_TEXT]
    return short if short.isprintable() else ascii(short)[1:-1]


def _texts(value: object) -> list[str]:
    found = [_text(each) for each in value[:_MOST_ENTRIES]] if isinstance(value, list) else []
    return [each for each in found if each is not None]


def _table(value: object) -> list[tuple[str, str]]:
    entries = list(value.items())[:_MOST_ENTRIES] if isinstance(value, Mapping) else []
    return [(name, text) for key, each in entries if (name := _text(key)) and (text := _text(each)) is not None]
