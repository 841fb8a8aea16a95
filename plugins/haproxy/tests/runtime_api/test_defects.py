"""The table of broken versions of HAProxy."""

import pytest

from discovery_haproxy.runtime_api.defects import DEFECTS, Broken, Defect, defect

ROWS = [pytest.param(each, id=each.source.rpartition(": ")[2]) for each in DEFECTS]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_source_and_ranges_in_order(row: Defect) -> None:
    assert "BUG/" in row.source
    assert row.symptom.startswith("HAProxy ")
    assert all(first < corrected for first, corrected in row.versions)
    assert list(row.versions) == sorted(row.versions)
    for (_, corrected), (first, _) in zip(row.versions, row.versions[1:], strict=False):
        assert corrected <= first


@pytest.mark.parametrize(
    ("version", "broken"),
    [
        ((2, 6, 12), True),
        ((2, 6, 19), True),
        ((2, 6, 20), False),
        ((2, 7, 12), True),
        ((2, 8, 5), True),
        ((2, 8, 12), False),
        ((2, 8, 25), False),
        ((2, 9, 15), True),
        ((3, 0, 5), True),
        ((3, 0, 6), False),
        ((3, 1, 0), False),
        ((3, 2, 7), True),
        ((3, 2, 8), False),
        ((3, 4), False),
    ],
)
def test_versions_that_can_crash_when_servers_are_deleted(version: tuple[int, ...], broken: bool) -> None:
    assert (defect(Broken.DELETION, version) is not None) is broken


def test_what_no_row_names_works() -> None:
    assert defect(Broken.LEASTCONN, (2, 8, 25)) is None
    assert defect(Broken.LEASTCONN, (3, 2, 16)) is not None
