"""Point 22. What is kept of rejected records is bounded, and a change costs the same however many there are."""

import time

from discovery.consuming.rejections import MOST_DETAILED, MOST_OF_A_RECORD, Rejections
from discovery.consuming.watcher import SnapshotBuilder
from discovery.model import Rejected
from discovery.registry import Delta, Reset
from discovery.testing import within

JUNK = 30_000


def test_thirty_thousand_rejected_keys_one_by_one_cost_linear_time_and_a_bounded_snapshot() -> None:
    """Point 22."""
    builder = SnapshotBuilder()
    builder.apply(Reset(1, {"web/good": b"10.0.0.1:80"}))
    begun = time.monotonic()
    for number in range(JUNK):
        builder.apply(Delta(2 + number, {f"junk/b{number}": b"nonsense"}))
    observation = builder.apply(Delta(2 + JUNK, {"web/good": b"10.0.0.2:80"}))
    assert time.monotonic() - begun < within(30)  # measured: 0.5 s; before: minutes
    snapshot = observation.snapshot
    assert snapshot is not None
    assert [backend.host for backend in snapshot.backends()] == ["10.0.0.2"]
    assert len(snapshot.rejected) == MOST_DETAILED
    assert snapshot.more_rejected == JUNK - MOST_DETAILED


def test_a_listing_of_thirty_thousand_rejected_keys_is_bounded_likewise() -> None:
    """Point 22."""
    snapshot = SnapshotBuilder().apply(Reset(1, {f"junk/b{number}": b"nonsense" for number in range(JUNK)})).snapshot
    assert snapshot is not None
    assert (len(snapshot.rejected), snapshot.more_rejected) == (MOST_DETAILED, JUNK - MOST_DETAILED)


def test_the_count_follows_what_is_removed_and_mended() -> None:
    """Point 22."""
    builder = SnapshotBuilder()
    records = {f"web/b{number}": b"nonsense" for number in range(MOST_DETAILED + 3)}
    builder.apply(Reset(1, records))
    keys = list(records)
    snapshot = builder.apply(Delta(2, {keys[-1]: b"10.0.0.1:80"}, frozenset({keys[-2]}))).snapshot
    assert snapshot is not None
    assert (len(snapshot.rejected), snapshot.more_rejected) == (MOST_DETAILED, 1)
    snapshot = builder.apply(Delta(3, {}, frozenset(keys[:10]))).snapshot
    assert snapshot is not None
    assert (len(snapshot.rejected), snapshot.more_rejected) == (MOST_DETAILED - 10, 1)
    # There is room for the details again once it is written.
    snapshot = builder.apply(Delta(4, {keys[-3]: b"still nonsense"})).snapshot
    assert snapshot is not None
    assert (len(snapshot.rejected), snapshot.more_rejected) == (MOST_DETAILED - 9, 0)


def test_one_record_with_thousands_of_ignored_fields_has_few_details() -> None:
    """Point 22."""
    rejections = Rejections()
    ignored = tuple(Rejected("web/b1", "ignored", f"f{number:04}") for number in range(5000))
    rejections.put("web/b1", ignored)
    assert rejections.detailed == ignored[:MOST_OF_A_RECORD]
    assert rejections.more == 5000 - MOST_OF_A_RECORD
    rejections.drop("web/b1")
    assert (rejections.detailed, rejections.more) == ((), 0)


def test_the_details_are_the_same_object_while_nothing_about_them_changes() -> None:
    """Point 22. Readers compare by identity and not record by record."""
    rejections = Rejections()
    rejections.put("web/b1", (Rejected("web/b1", "bad"),))
    before = rejections.detailed
    rejections.put("web/b1", (Rejected("web/b1", "bad"),))
    rejections.put("web/b2", ())
    assert rejections.detailed is before
