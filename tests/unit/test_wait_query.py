"""What a query of `/api/wait` may ask: patterns are short and few, since the core reads them in one piece."""

import pytest
from multidict import MultiDict

from discovery.admin.waitdocument import awaited_of


def query(*patterns: str) -> MultiDict[str]:
    return MultiDict([("service", "web"), *(("applied_by", each) for each in patterns)])


def test_some_patterns_are_taken_each_once() -> None:
    awaited, _ = awaited_of(query("haproxy", "ambassador*", "haproxy", "x" * 200))
    assert awaited.applied_by == ("haproxy", "ambassador*", "x" * 200)


@pytest.mark.parametrize(
    ("patterns", "reason"),
    [
        (["[" * 4000], "at most 200 characters"),
        (["*a" * 101], "at most 200 characters"),
        ([f"a{number}" for number in range(33)], "names 33 consumers, more than 32: use wildcards"),
    ],
)
def test_a_pattern_that_is_costly_to_read_is_refused(patterns: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        awaited_of(query(*patterns))
