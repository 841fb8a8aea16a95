"""What the live page shows: whatever a record, a check or a plugin tells is text, and what is wanted is shown."""

import re
import time
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.admin.members import Told
from discovery.admin.page.ages import Ages
from discovery.admin.page.facts import Applies, Facts
from discovery.admin.page.filters import Filters, filters_of
from discovery.admin.page.flow import Marks, flow
from discovery.admin.page.matching import Slices
from discovery.admin.page.painting import Painter, Picture
from discovery.admin.page.rendering import Renderer, panel_id
from discovery.admin.page.view import backend_row
from discovery.admin.status import DaemonStatus
from discovery.consuming.history import AppliedHistory, Change, ChangeHistory, Named
from discovery.consuming.holding import Cause, Held
from discovery.consuming.owners import Owners
from discovery.consuming.resolving import Step
from discovery.consuming.runner import ConsumerStatus
from discovery.hosting.isolation import Phase
from discovery.model import Backend, Rejected, Snapshot, State, diff
from discovery.plugin import Health
from discovery.providing.provider import RunningProviderStatus
from discovery.providing.runner import ProviderStatus
from discovery.registry import Member, Membership

RENDERER = Renderer(dict.fromkeys(("style.css", "page.js", "shared.js", "icon.svg"), "/static/file"))
TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        '"><script>alert(1)</script>',
        "' onmouseover='x",
        "</textarea>",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "<!--",
        "javascript:x",
        "\0",
        "&lt;",
    ]
)
ELEMENTS = re.compile(
    "html|head|meta|title|link|script|body|a|header|div|h[123]|p|span|time|nav|ul|li|main|section|svg|path|g|rect|text|"
    "details|summary|form|label|input|select|option|button|table|caption|thead|tbody|tr|th|td|dl|dt|dd|article|code|"
    "strong|footer"
)


class Reader(HTMLParser):
    """Collects the elements and attributes of a page, and what is in it as text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def facts(text: str = "") -> Facts:
    """A daemon that knows every kind of thing, all named by `text`."""
    backends = [
        Backend("web", text, text, 80, labels={text: text}),
        Backend("web", "draining", "10.0.0.1", 80, state=State.DRAINING),
        Backend("web", "zero", "10.0.0.1", 80, weight=0),
        Backend("db", "down", "10.0.0.1", 80),
    ]
    rejected = [Rejected(f"web/{text}", text), Rejected("web/odd", text, field=text)]
    snapshot = Snapshot.of(7, backends, rejected)
    health = Health(down={"db/down": text, f"web/{text}": text}, problems={text: text}, detail=text)
    consumer = ConsumerStatus(
        text,
        text,
        Phase.RETRYING,
        phase_since=1.0,
        error=text or None,
        health=health,
        applied_revision=7,
        behind_since=2.0,
    )
    status = DaemonStatus(
        text,
        snapshot=snapshot,
        snapshot_time=1.0,
        stale=text,
        alarms=(text,),
        unresolved={("web", text): text},
        held={f"web/{text}": Held(Cause.GAP, 5.0, 9.0), "web/zero": Held(Cause.RESET, None, None)},
        owners=Owners({f"web/{text}": text}),
        consumers=(consumer,),
        config_error=text,
        broken={text: text},
    )
    change = Change(1, 7, 3.0, 3.0, 3.1, False, 1, 0, 0, 0, (Named("+", f"web/{text}", text),), None)
    members = (Member(text, (text,), True, version=text, size=1, reason=text), Member("", (), asked=False, reason=text))
    told = Told(Membership(members, text), 0.0)
    return Facts(status, (change,), {text: Applies(snapshot, (), 0.0)}, 1000.0, told)


async def paint(given: Facts, filters: Filters = Filters()) -> Picture:  # noqa: B008 - frozen
    painter = Painter(RENDERER)
    return await painter.paint(painter.view(filters), given, Slices())


def page(picture: Picture, filters: Filters = Filters(), panel: str = "", name: str = "x") -> Reader:  # noqa: B008 - frozen
    reader = Reader()
    reader.feed(RENDERER.page(filters, picture.parts, picture.rows, [(f"consumers/{name}", name)], panel, 5.0))
    reader.close()
    return reader


def run(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing but its turn."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value


@given(TEXTS)
def test_whatever_is_told_is_text(text: str) -> None:
    filters = Filters(q=text, service=text, panel=f"consumers/{text}")
    panel = RENDERER.part("panel", f"consumers/{text}", {text: [{text: text}, {text: [text, None, 1.5, True]}]}, "")
    for picture in (run(paint(facts(text))), run(paint(facts(text), filters))):
        reader = page(picture, filters, panel, text)
        assert all(map(ELEMENTS.fullmatch, reader.elements))
        assert not {
            each for each in reader.attributes if each.startswith("on") or each in ("style", "srcdoc", "action ")
        }
        assert all(link.startswith(("/", "#")) for link in reader.links)
        assert len(set(reader.ids)) == len(reader.ids)


def test_every_section_has_what_it_is_for() -> None:
    text = page(run(paint(facts("strange")))).text
    for told in (
        "4 backends",
        "strange",
        "draining",
        "web/odd",
        "removed after a gap",
        "not connected",
        "not applied yet",
        "failing",
        "leader",
        "not asked",
    ):
        assert told in text


def test_listings_after_the_first_do_not_count_the_first() -> None:
    for listings, told in ((0, None), (1, None), (2, "1"), (5, "4")):
        known = facts()._replace(status=DaemonStatus("etcd://r", resets=listings))
        shown = re.search(r"Listings after the first(\d+)", page(run(paint(known))).text)
        assert (shown and shown[1]) == told


def test_a_backend_tells_all_that_is_wrong_with_it_the_gravest_first() -> None:
    one = Backend("web", "a", "nowhere.invalid", 80)
    held, unresolved = {"web/a": Held(Cause.RESET, None, None)}, {("web", "a"): "no such name"}
    down = (ConsumerStatus("edge", "p", health=Health(down={"web/a": "refused"})),)
    removed = "the registry has removed it, which is not believed"
    for status, told in (
        (DaemonStatus("r"), ("", "")),
        (DaemonStatus("r", held=held), ("held", removed)),
        (DaemonStatus("r", held=held, unresolved=unresolved), ("unresolved", f"no such name; held: {removed}")),
        (DaemonStatus("r", unresolved=unresolved, consumers=down), ("down", "edge: refused; unresolved: no such name")),
    ):
        row = backend_row(one, Facts(status), Ages())
        assert (row.health, row.why) == told


def test_the_diagram_has_no_empty_column_without_providers() -> None:
    consumers = (ConsumerStatus("edge", "p"),)
    found = ProviderStatus("docker", "docker")
    provider = RunningProviderStatus(found, "host-1", 10.0, frozenset(), frozenset(), {}, None, True)
    for providers in ((), (provider,)):
        drawn = flow(Facts(DaemonStatus("r", consumers=consumers, providers=providers)), Marks())
        assert min(each.x for each in drawn.boxes) == 0
        assert max(each.x + each.width for each in drawn.boxes) == drawn.width


def test_the_diagram_has_the_services_of_which_something_is_down_however_many_there_are() -> None:
    names = [f"s{number:02}" for number in range(40)]
    for ill in (["s39"], [], names[20:]):
        health = Health(down=dict.fromkeys((f"{name}/b" for name in ill), "refused"))
        snapshot = Snapshot.of(1, [Backend(name, "b", "10.0.0.1", 80) for name in names])
        status = DaemonStatus("r", snapshot=snapshot, consumers=(ConsumerStatus("edge", "p", health=health),))
        services = [each for each in flow(Facts(status), Marks()).boxes if each.kind == "service"]
        drawn, last = services[:-1], services[-1]
        shown = [each.name for each in drawn if each.state == "degraded"]
        assert [each.name for each in drawn] == sorted(each.name for each in drawn)
        assert shown == ill[: len(drawn)]
        hidden = len(ill) - len(shown)
        assert last.name == f"{len(names) - len(drawn)} other services"
        assert (last.state, f"{hidden} down" in last.detail) == (("degraded", True) if hidden else ("ok", False))


def test_a_daemon_of_the_fleet_that_is_well_has_no_list_of_problems() -> None:
    daemon = {"machine": "m", "own": False, "address": "10.0.0.1:9901", "version": "1", "roles": [], "state": "ok"}
    daemon |= dict.fromkeys(("applied_revision", "lag_seconds", "reason", "connected"))
    told = dict.fromkeys(("reason", "not_announced", "invalid", "more", "more_invalid"))
    problems: tuple[dict[str, str], ...] = ({}, {"edge": "it is ill"})
    text = RENDERER.part("fleet", {**told, "daemons": [{**daemon, "problems": each} for each in problems]})
    assert text.count('<ul class="problems"') == text.count("<li>") == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["db/down", "web/draining", "web/x", "web/zero"]),
        ({"q": "DRAIN"}, ["web/draining"]),
        ({"q": "x=x"}, ["web/x"]),
        ({"service": "db"}, ["db/down"]),
        ({"service": "d"}, []),
        ({"state": "active"}, ["db/down", "web/x"]),
        ({"state": "draining"}, ["web/draining"]),
        ({"state": "weight-zero"}, ["web/zero"]),
        ({"state": "rejected"}, []),
        ({"health": "down"}, ["db/down", "web/x"]),
        ({"health": "unresolved"}, ["web/x"]),
        ({"health": "held"}, ["web/x", "web/zero"]),
        ({"health": "well"}, ["web/draining"]),
        ({"health": "held", "state": "weight-zero", "q": "10.0.0.1:80", "service": "web"}, ["web/zero"]),
        ({"state": "none", "health": "none", "page": "-1"}, ["db/down", "web/draining", "web/x", "web/zero"]),
    ],
)  # fmt: skip
def test_filters_select_backends(query: dict[str, str], found: list[str]) -> None:
    picture = run(paint(facts("x"), filters_of(query)))
    assert [each.removeprefix("backend-").replace("%2F", "/") for each in picture.rows["backend-rows"]] == found


def test_the_timeline_has_500_changes_with_the_delay_of_each_consumer() -> None:
    history, snapshots = ChangeHistory(), [Snapshot.of(1, [])]
    applied = {"edge": AppliedHistory(), "archive": AppliedHistory()}
    for number in range(1, 621):
        snapshots.append(Snapshot.of(number + 1, [Backend(f"s{number}", "a", "10.0.0.1", 80)]))
        step = Step(number, diff(snapshots[-2], snapshots[-1]))
        history.take(step, snapshots[-2], snapshots[-1], time.monotonic())
        history.offered()
        for each in applied.values():
            each.add(number, number + 1, time.monotonic(), verify=None, failures=0, concerned=True)
    applies = {name: Applies(snapshots[-1], each.applies, each.since) for name, each in applied.items()}
    given = Facts(DaemonStatus("x", snapshot=snapshots[-1]), history.changes, applies)
    for query, length in (({}, 25), ({"changes": "100"}, 100), ({"changes": "500"}, 500)):
        rows = run(paint(given, filters_of(query))).rows["change-rows"]
        assert len(rows) == length
        added = [re.findall(r">added</span> s(\d+)/a", html) for html in rows.values()]
        assert added == [[str(number)] for number in range(620, 620 - length, -1)]
        for html in rows.values():
            assert len(re.findall(r'(?:edge|archive) <span class="ms">[\d.]+ ms</span>', html)) == 2, html


@given(st.dictionaries(st.sampled_from(["q", "service", "state", "health", "page", "changes", "panel"]), TEXTS))
def test_filters_are_written_as_they_are_read(query: dict[str, str]) -> None:
    filters = filters_of(query)
    assert filters_of(dict(parse_qsl(filters.query))) == filters


def test_what_has_not_changed_is_not_rendered_again() -> None:
    painter = Painter(RENDERER)
    view, given = painter.view(Filters()), facts("x")
    first = run(painter.paint(view, given, Slices()))
    again = run(painter.paint(view, given._replace(changes=given.changes), Slices()))
    assert first == again
    assert all(again.rows["backend-rows"][id_] is html for id_, html in first.rows["backend-rows"].items())


def test_ids_of_panels_are_attributes() -> None:
    assert panel_id('consumers/"x y') == "panel-consumers%2F%22x%20y"
