"""What the tutorial counts, and how it shows the counts: requests of a run, and the record in the registry."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tutorial.outcomes import Cut, Leader, Request, elected, judge, read_changes, read_requests, summarize
from tutorial.picture import draw
from tutorial.report import document, text
from tutorial.story import Event, Result

CUT = Cut(10.0, 10.1)


def line(revision: int, *, reset: bool = False, **changes: str) -> str:
    """A line of `discovery watch --json`: the address of the one backend that is added, updated or removed."""
    told: dict[str, object] = {"revision": revision, "reset": reset, "added": [], "updated": [], "removed": []}
    for kind, address in changes.items():
        host, _, port = address.partition(":")
        told[kind] = [{"service": "apache-A", "id": "apache.service", "host": host, "port": int(port)}]
    return json.dumps(told)


A, SPARE = "10.0.0.1:32768", "10.0.0.3:32768"


def test_requests_are_counted_and_those_in_flight_apart() -> None:
    requests = [
        Request(1.0, 1.1, "a", ""),
        Request(9.9, 25.0, "", "status 502"),  # in flight
        Request(10.05, 20.5, "spare", ""),  # begun while the link was cut
        Request(10.2, 20.4, "spare", ""),
        Request(11.0, 20.5, "", "status 503"),
        Request(21.0, 21.1, "spare", ""),
    ]
    summary = summarize(requests, CUT)
    assert summary.total == 6
    assert summary.served == {"a": 1, "spare": 3}
    assert (summary.in_flight, summary.in_flight_failed) == (2, ("status 502",))
    assert summary.in_flight_longest == pytest.approx(15.0)
    assert summary.failed == ("status 503",)
    assert (summary.held, summary.longest_hold) == (1, pytest.approx(10.2))
    assert summary.longest_gap == pytest.approx(19.3)


def test_lines_of_requests_are_read_without_one_that_is_still_written() -> None:
    lines = ['[2.0, 2.5, "", "status 503"]\n', '[1.0, 1.5, "a", ""]\n', "[3.0, 3"]
    assert read_requests(lines) == [Request(1.0, 1.5, "a", ""), Request(2.0, 2.5, "", "status 503")]


@pytest.mark.parametrize(
    ("lines", "ended", "absent", "flaps", "duplicates"),
    [
        ([(20.0, line(2, removed=A)), (20.5, line(3, added=SPARE))], 10.0, 0.5, 0, 0),
        ([(20.0, line(2, updated=SPARE))], 10.0, 0.0, 0, 0),
        ([(20.0, line(2, removed=A)), (20.5, line(3, added=SPARE)), (30.0, line(4, updated=A))], 10.0, 0.5, 1, 0),
        ([(20.0, line(2, removed=A)), (20.5, line(3, added=SPARE)), (30.0, line(4, removed=SPARE))], 10.0, 0.5, 1, 0),
        ([(20.0, line(2, added=SPARE).replace("apache.service", "other"))], None, 0.0, 0, 1),
        ([(20.0, line(2, added=SPARE).replace("apache-A", "another"))], None, 0.0, 0, 0),
    ],
)
def test_the_history_of_the_record_tells_flaps_and_duplicates(
    lines: list[tuple[float, str]], ended: float | None, absent: float, flaps: int, duplicates: int
) -> None:
    changes = read_changes([(1.0, line(1, reset=True, added=A)), *lines], "apache-A")
    assert judge(changes, CUT) == (pytest.approx(ended), pytest.approx(absent), flaps, duplicates)


@pytest.mark.parametrize(
    ("answers", "leader"),
    [
        ([], None),
        ([(10.5, "b", 2, 0), (11.0, "b", 2, 3)], None),
        ([(10.5, "b", 2, 0), (11.0, "b", 2, 3), (11.1, "spare", 3, 3)], Leader(11.1, "spare")),
        ([(10.5, "b", 0, 0), (11.0, "b", 2, 2), (11.1, "spare", 3, 0), (11.2, "spare", 3, 2)], Leader(11.2, "b")),
        ([(11.0, "b", 2, 3), (11.1, "b", 2, 2), (11.2, "spare", 3, 3)], None),
        ([(11.0, "b", 2, 3), (11.2, "spare", 3, 3), (11.3, "b", 2, 2), (11.4, "spare", 3, 2)], Leader(11.2, "spare")),
    ],
)
def test_a_leader_is_elected_once_the_members_agree_on_another(
    answers: list[tuple[float, str, int, int]], leader: Leader | None
) -> None:
    lines = [json.dumps(each) for each in [(1.0, "b", 2, 1), (1.1, "spare", 3, 1), *answers]]
    assert elected(lines, ("b", "spare"), before=1) == leader


@pytest.fixture
def result() -> Result:
    requests = (
        Request(9.0, 9.1, "a", ""),
        Request(9.9, 20.0, "", "status 502"),
        Request(10.5, 20.0, "spare", ""),
        Request(11.0, 20.0, "", "status 503"),
    )
    events = (Event(10.0, "a loses power"), Event(20.0, "Apache on the spare machine answers"))
    history = judge((), CUT)
    return Result(False, requests, events, CUT, summarize(requests, CUT), history, 0.0, 11.0)


def test_a_run_with_a_failed_request_has_not_passed(result: Result) -> None:
    assert not result.passed
    assert json.loads(document(result))["failed"] == ["status 503"]
    assert "1, the first: status 503" in text(result)
    good = result._replace(summary=result.summary._replace(failed=()))
    assert good.passed
    assert not good._replace(history=good.history._replace(flaps=1)).passed
    assert not good._replace(history=good.history._replace(duplicates=1)).passed


def test_the_bar_and_what_the_hold_consists_of_are_shown(result: Result) -> None:
    assert "9.5 s (at most TTL + 1 s = 11.0 s: met)" in text(result)
    assert json.loads(document(result))["longest_hold_met"]
    longer = result._replace(leader=True, election=1.0, limit=9.0, resumed=10.01)
    assert "9.5 s (at most TTL + 2 s + election = 9.0 s: not met)" in text(longer)
    told = json.loads(document(longer))
    assert (told["longest_hold_met"], told["record_ended"], told["resumed"]) == (False, None, 10.01)
    assert "answered  10.01 s after the loss of power" in text(longer)
    # On a busy machine a bar that is not met is no failure of the run.
    assert longer._replace(summary=longer.summary._replace(failed=())).passed


def test_the_chart_has_a_column_for_each_second_and_a_line_for_each_event(result: Result) -> None:
    shown = text(result)
    assert "▲          |  a loses power" in shown
    assert shown.count("▲") == len(result.events)


def test_the_picture_shows_who_answered_each_request(result: Result, tmp_path: Path) -> None:
    draw(result, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert {(0x3B, 0x6F, 0xB6), (0x3F, 0x9A, 0x5A), (0xE0, 0x8A, 0x1E), (0xD0, 0x20, 0x20)} <= colours
