"""Whether HAProxy's master has forgotten a request to reload."""

import pytest

from discovery_haproxy.external.requests import has_forgotten
from discovery_haproxy.program.process import Family, Process

OWN = ("haproxy", "-W", "-f", "c")
READS = ("haproxy", "-sf", "11", "-x", "sockpair@4", "-W", "-f", "c")
READ_BEFORE = ("haproxy", "-sf", "10", "-x", "sockpair@4", "-W", "-f", "c")

LOOKS = {
    "nothing happens": (OWN, {11}, OWN, {11}, True),
    "an old worker ends": (OWN, {10, 11}, OWN, {11}, True),
    "the reload before has ended": (READ_BEFORE, {11}, OWN, {11}, True),
    "the arguments of the reload before are kept": (READ_BEFORE, {11}, READ_BEFORE, {11}, True),
    "the configuration is read": (OWN, {11}, READS, {11}, False),
    "it is read after another": (READ_BEFORE, {11}, READS, {11}, False),
    "there is a new worker": (OWN, {11}, OWN, {11, 12}, False),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_request_is_forgotten_if_the_master_neither_reads_nor_has_a_new_worker(look: str) -> None:
    before, children, after, children_after, forgotten = LOOKS[look]
    assert has_forgotten(family(before, children), family(after, children_after)) is forgotten


def test_another_master_has_forgotten_nothing() -> None:
    assert not has_forgotten(family(OWN, {11}), family(OWN, set(), pid=2))


def family(argv: tuple[str, ...], children: set[int], pid: int = 1) -> Family:
    return Family(Process(pid, 0, 0, 0, argv, None), frozenset(children))
