"""Answers to one question in wire form: records that take turns, as many as a message has room for."""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import NamedTuple, TypeVar

_KEPT = 16
"""Records of an answer of which every order is kept: 16 orders of 16 records are about 20 KiB."""
_LEAST_RECORD_BYTES = 16
"""Bytes of the smallest record, an A record whose owner is a pointer: how many records can have room at all."""

T = TypeVar("T")


class Body(NamedTuple):
    """The part of a message behind the question: `counts` are those of answer, authority and additional records."""

    counts: bytes
    counts_with_opt: bytes
    records: bytes
    truncated: bool = False


def body(records: Sequence[bytes], additional: Sequence[bytes] = (), authority: Sequence[bytes] = ()) -> Body:
    """Return the body with these records."""
    return Body(
        _counts(len(records), len(authority), len(additional)),
        _counts(len(records), len(authority), len(additional) + 1),
        b"".join((*records, *authority, *additional)),
    )


class Answers:
    """The records that answer one question. From one thread: each answer begins with another record than the last.

    The work for an answer is bounded by its room, and not by the number of records.
    """

    __slots__ = ("_additional", "_kept", "_most", "_records", "_rotating", "_targets", "_turn")

    def __init__(
        self,
        records: Sequence[bytes],
        targets: Sequence[str | None] = (),
        additional: Callable[[str], bytes] = str.encode,
        *,
        rotating: int | None = None,
        most: int | None = None,
    ) -> None:
        """Create the answers, with at least one of `records`.

        `targets` has for each of `records` the address for which `additional` returns an additional record, or None; or
        is empty altogether. The first `rotating` records take turns, by default all; the others follow them. An answer
        has at most `most` records.
        """
        self._records, self._targets, self._additional = tuple(records), tuple(targets), additional
        self._rotating = len(self._records) if rotating is None else rotating
        self._most = len(self._records) if most is None else min(most, len(self._records))
        self._turn = random.randrange(self._rotating)  # noqa: S311 - for balance alone
        self._kept: dict[int, Body] | None = {} if len(self._records) <= _KEPT else None

    def next(self, room: int) -> Body:
        """Return the body of the next answer, of at most `room` bytes.

        Additional records that do not fit are left out. Without all answer records the body is truncated.
        """
        turn, self._turn = self._turn, (self._turn + 1) % self._rotating
        kept = self._kept
        if kept is None:
            return self._make(turn, room)
        whole = kept.get(turn)
        if whole is None:
            whole = kept[turn] = self._make(turn, None)
        return whole if len(whole.records) <= room else self._make(turn, room)

    def _make(self, turn: int, room: int | None) -> Body:
        most = self._most if room is None else min(self._most, room // _LEAST_RECORD_BYTES + 1)
        records = self._order(self._records, turn, most)
        fitting = most if room is None else _fitting(records, room)
        if fitting < most:
            return body(records[:fitting])._replace(truncated=True)
        targets = filter(None, dict.fromkeys(self._order(self._targets, turn, most)))
        if room is None:
            return body(records, tuple(map(self._additional, targets)))
        left = room - sum(map(len, records))
        additional = tuple(map(self._additional, islice(targets, left // _LEAST_RECORD_BYTES + 1)))
        return body(records, additional[: _fitting(additional, left)])

    def _order(self, records: tuple[T, ...], turn: int, most: int) -> tuple[T, ...]:
        """Return the first `most` of the records, from the one whose turn it is."""
        if not records:
            return ()
        rotating = self._rotating
        begin = records[turn : min(rotating, turn + most)]
        begin += records[: min(turn, most - len(begin))]
        return begin + records[rotating : rotating + most - len(begin)]


def _fitting(records: Sequence[bytes], room: int) -> int:
    """Return how many of the records have room."""
    return bisect_right(list(accumulate(map(len, records))), room)


def _counts(answers: int, authority: int, additional: int) -> bytes:
    return b"".join(count.to_bytes(2, "big") for count in (answers, authority, additional))
